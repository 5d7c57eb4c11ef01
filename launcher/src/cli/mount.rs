//! `lamina mount`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use composefs_fuse::mount::{MountOptions, split_options};
use composefs_fuse::{MountProgram, ProgramEnd, ProgramError, Server, ServerProcess, run_mount_program};
use layer_store::Store;

use super::on_top::OnTop;
use super::serving::Serving;
use super::{Global, mount_helper, store};
use crate::failure::{FAILED, Failure, USAGE};
use crate::print;

/// The words after `-o`.
const OPTIONS: &str = "\
Options after -o, with their names in mount(8):
  ro                              always set; rw is refused, because an image cannot be changed
  allow_other                     as --allow-other
  default_permissions             check owners and modes without letting others in
  noexec, noatime                 as for any mount
  suid, dev                       honour set-user-ID files and devices, if root mounts it
  fsname=NAME                     the source that /proc/self/mounts shows
  subtype=NAME                    the type that it shows, after \"fuse.\"; only umount(8) unmounts it
  store=DIR, additional_store=DIR as --store and --additional-store
  verify, foreground              as --verify and --foreground
  defaults, nosuid, nodev, exec, relatime, nofail, noauto, user, users, owner, group, _netdev,
  x-...                           have no effect here, or only for mount(8) and systemd
  uid=, gid=, umask= and others   are refused: owners and modes are those of the image

";

/// How mount(8) mounts images on Linux.
const FSTAB: &str = "\
An image in /etc/fstab, mounted at its first use:
  debian:12  /srv/debian  fuse.lamina  ro,nofail,noauto,x-systemd.automount,allow_other  0  0
mount(8) finds this program by the link /sbin/mount.fuse.lamina, or as `lamina` in
/usr/local/bin or /usr/bin if the package fuse3 is installed. The image must be in the store
of the user who mounts; for another store add store=DIR. Set-user-ID files and devices of the
image never work there. umount(8) and `lamina umount` unmount it.

";

const EXAMPLES: &str = "\
Examples:
  lamina mount debian:12 /tmp/debian && ls /tmp/debian
  lamina mount --foreground debian:12 /srv/debian
  lamina mount -o noexec,fsname=debian debian:12 /srv/debian
  lamina stats /tmp/debian
  lamina umount /tmp/debian";

fn after_help() -> String {
    [OPTIONS, if cfg!(target_os = "linux") { FSTAB } else { "" }, EXAMPLES].concat()
}

/// Show an image as a read-only directory, without root and without unpacking it
///
/// Returns when the tree can be read, and a process in the background serves it until `lamina umount`. Only the user
/// who mounts can enter the mount, and can read everything in it, including root's files. With --allow-other every user
/// can enter it, and the kernel checks owners and modes (POSIX ACLs are shown but not enforced).
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Mount {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// An empty directory to mount it on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    on_top: OnTop,
    /// Serve from this process until the mount is unmounted or a signal arrives
    #[arg(long, short)]
    foreground: bool,
    /// Let other users in, and check owners and modes
    #[arg(long)]
    allow_other: bool,
    /// Mount options, separated by commas; see below
    #[arg(short = 'o', value_name = "OPTION,...")]
    options: Vec<String>,
    /// Check each file's content when it is first read; reading a damaged file fails with an I/O error
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    serving: Serving,
    /// Set if mount(8) has called this program
    #[arg(long, hide = true)]
    mount_helper: bool,
    /// Check the arguments and mount nothing
    #[arg(long, hide = true)]
    fake: bool,
    /// Set by this program for the process that it leaves in the background
    #[arg(long, hide = true)]
    background_child: bool,
}

/// The options after `-o`: those of the mount, and those of this program.
#[derive(Debug, Default)]
struct Words {
    mount: MountOptions,
    foreground: bool,
    verify: bool,
    store: Option<PathBuf>,
    additional_stores: Vec<PathBuf>,
}

impl Mount {
    /// Mounts. `arguments` are those of this process, or those that a mount helper's were translated to.
    pub(super) fn execute(&self, global: &Global, arguments: Vec<OsString>) -> Result<u8, Failure> {
        let result = self.run(global, arguments);
        if !self.mount_helper {
            return result;
        }
        result.map_err(|failure| match failure.status() {
            USAGE => failure.with_status(mount_helper::USAGE),
            _ => failure.with_status(mount_helper::FAILED),
        })
    }

    fn run(&self, global: &Global, arguments: Vec<OsString>) -> Result<u8, Failure> {
        let words = self.words()?;
        if self.fake {
            return Ok(0);
        }
        let foreground = self.foreground || words.foreground;
        let program = MountProgram {
            mount_point: self.directory.clone(),
            options: self.serving.options(words.mount.clone())?,
            server: match (self.background_child, foreground) {
                (true, _) => ServerProcess::Background,
                (false, true) => ServerProcess::Foreground,
                (false, false) => ServerProcess::Start(for_background(arguments)),
            },
            log: None,
        };
        let end = run_mount_program::<Failure>(&program, || self.server(global, &words))?;
        Ok(match end {
            ProgramEnd::InBackground => 0,
            ProgramEnd::Reported(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED),
            ProgramEnd::Served(served) => {
                if global.verbose > 0 {
                    print::message_lines(served.stats.snapshot().to_string().trim_end());
                }
                0
            }
        })
    }

    fn words(&self) -> Result<Words, Failure> {
        let mut words = Words::default();
        for option in self.options.iter().flat_map(|list| split_options(list)) {
            match option.split_once('=').unwrap_or((&option, "")) {
                ("foreground", "") => words.foreground = true,
                ("verify", "") => words.verify = true,
                ("store", directory) if !directory.is_empty() => words.store = Some(directory.into()),
                ("additional_store", directory) if !directory.is_empty() => {
                    words.additional_stores.push(directory.into());
                }
                _ => words.mount.set(&option).map_err(|error| Failure::new("-o", error).with_status(USAGE))?,
            }
        }
        words.mount.allow_other |= self.allow_other;
        if self.mount_helper {
            // `mount.fuse3` always asks for both, and mount(8) does not say whether its user did.
            (words.mount.suid, words.mount.dev) = (false, false);
        }
        Ok(words)
    }

    /// Opens the image to serve.
    fn server(&self, global: &Global, words: &Words) -> Result<Server, Failure> {
        let purpose = format!("a mount of {} on {}", self.image, self.directory.display());
        let opened = self.on_top.open(&self.stores(global, words))?.with_purpose(&purpose);
        let image = store::image(&opened, &self.image)?;
        let on_top = self.on_top.layers(&opened)?;
        store::tell_unleased(&opened, &image.layers, &on_top);
        let base = store::prepare(&opened, &image, &on_top)?;
        let view = opened.bases().open(&base).map_err(|error| Failure::of(&self.image, &error))?;
        let view = if self.verify || words.verify { view.verifying() } else { view };
        // The view has its own lease.
        Ok(Server::new(Arc::new(view)))
    }

    /// Returns the options for the stores that the command line and the words after `-o` name.
    fn stores(&self, global: &Global, words: &Words) -> Global {
        let mut stores = global.clone();
        stores.store = words.store.clone().or(stores.store);
        stores.additional_stores.extend(words.additional_stores.iter().cloned());
        if self.mount_helper && stores.store.is_none() {
            stores.store = store_of_the_account();
        }
        stores
    }
}

/// Returns the default store in the home directory that the user database names, if this process has no `HOME` and the store
/// exists. mount(8) and systemd give helpers no environment, and an image in `/etc/fstab` must be found as in a shell.
fn store_of_the_account() -> Option<PathBuf> {
    if ["LAMINA_STORE", "XDG_DATA_HOME", "HOME"].into_iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let root = std::env::home_dir()?.join(".local/share/lamina");
    Store::open_existing(&root).is_ok().then_some(root)
}

/// Adds the argument that makes this program serve in the background: before `--`, after which nothing is an option.
fn for_background(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.insert(end, "--background-child".into());
    arguments
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        Self::new("lamina mount", error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn words(options: &[&str], mount_helper: bool) -> Result<Words, Failure> {
        let options = options.iter().map(|&list| list.to_owned()).collect();
        let mount = Mount { options, mount_helper, ..Mount::for_tests() };
        mount.words()
    }

    impl Mount {
        fn for_tests() -> Self {
            use clap::FromArgMatches;
            let command = <Self as clap::Args>::augment_args(clap::Command::new("mount"));
            Self::from_arg_matches(&command.get_matches_from(["mount", "debian:12", "/mnt"])).unwrap()
        }
    }

    #[test]
    fn words_of_this_program_and_of_the_kernel_are_told_apart() {
        let lists = ["ro,store=/srv/a\\,b,verify", "additional_store=/x,additional_store=/y,noexec"];
        let words = words(&lists, false).unwrap();
        assert!(words.verify && words.mount.noexec && !words.foreground);
        assert_eq!(words.store.as_deref(), Some(Path::new("/srv/a,b")));
        assert_eq!(words.additional_stores, [Path::new("/x"), Path::new("/y")]);
    }

    #[test]
    fn setuid_files_and_devices_work_only_where_root_has_asked_for_them() {
        let asked = words(&["ro,suid,dev"], false).unwrap().mount;
        assert!(asked.suid && asked.dev);
        let by_mount = words(&["ro,dev,suid"], true).unwrap().mount;
        assert!(!by_mount.suid && !by_mount.dev);
    }

    #[test]
    fn an_option_that_cannot_be_honoured_is_wrong_usage() {
        for list in ["rw", "ro,uid=1000", "store=", "verify=yes", "windows"] {
            let refused = words(&[list], true).unwrap_err();
            assert_eq!(refused.status(), USAGE, "{list}: {refused}");
        }
    }
}
