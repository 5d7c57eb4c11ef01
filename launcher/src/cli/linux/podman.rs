//! `lamina podman`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layer_store::{BaseId, Image, Store, user_dirs};

use crate::cli::{Global, store};
use crate::failure::{About, Failure};
use crate::host::podman_store::{InUse, PodmanImage, PodmanStore};

/// Mounts `$2...` at `$1` unless something is mounted there, and takes a mount away whose server has ended.
const MOUNT: &str = r#"mountpoint -q "$1" && exit 0; umount -l "$1" 2>/dev/null; point=$1; shift; exec "$@" "$point""#;

/// Unmounts `$1` if it is mounted.
const UNMOUNT: &str = r#"if mountpoint -q "$1"; then umount "$1"; else umount -l "$1" 2>/dev/null || true; fi"#;

/// Let podman run images of the store, without pulling or unpacking them
///
/// The images are mounted where podman looks for them, in an additional image store. An image whose name has moved to another
/// is unmounted, unless a container or an image that podman has built is on it. Without root the mounts are made in podman's
/// own namespace, and are there until podman's last process ends, at a reboot or with `podman system migrate`: run this again
/// then. podman needs the storage driver overlay, and the directory in its storage.conf.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In ~/.config/containers/storage.conf:
  [storage]
  driver = \"overlay\"
  [storage.options]
  additionalimagestores = [\"/home/USER/.local/state/lamina/podman\"]

Examples:
  lamina podman debian:12 && podman run --rm docker.io/library/debian:12 cat /etc/os-release
  lamina podman --remove debian:12")]
pub(in crate::cli) struct Podman {
    /// The images
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
    /// The additional image store [default: podman in $XDG_STATE_HOME/lamina or ~/.local/state/lamina]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Take the images away from podman
    #[arg(long)]
    remove: bool,
}

impl Podman {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let directory = match &self.directory {
            Some(directory) => std::path::absolute(directory).about(directory.display())?,
            None => user_dirs::state().about("lamina podman")?.join("podman"),
        };
        let podman = PodmanStore::open(&directory)?;
        if self.remove {
            for name in &self.images {
                remove(&podman, &store::reference(name)?.to_string())?;
            }
            return Ok(0);
        }
        let opened = store::look_into(global)?;
        let images = self.images.iter().map(|name| store::image(&opened, name)).collect::<Result<Vec<_>, _>>()?;
        for image in &images {
            let base = store::prepare(&opened, image, &[])?;
            podman.add_layer(&base)?;
            mount(global, &opened, image, &podman.tree(&base))?;
            podman.add_image(&described(&opened, image, base)?)?;
            say!("{}", image.reference);
        }
        remove_unnamed(&podman)?;
        if !is_configured(&directory) {
            tell!(
                "lamina: podman does not read {} yet: add it to additionalimagestores in storage.conf, as \
                 `lamina podman --help` shows",
                directory.display()
            );
        }
        Ok(0)
    }
}

fn described(opened: &Store, image: &Image, base: BaseId) -> Result<PodmanImage, Failure> {
    let document = |digest| opened.images().manifest_bytes(digest).about(&image.reference);
    Ok(PodmanImage {
        reference: image.reference.clone(),
        manifest: document(&image.manifest_digest)?,
        config: document(&image.config_digest)?,
        config_digest: image.config_digest,
        base,
        bytes: image.layers.iter().filter_map(|layer| opened.layers().bytes(layer)).sum(),
        // podman reads a time.
        created: image.config.created().clone().unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
    })
}

fn mount(global: &Global, opened: &Store, image: &Image, tree: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe().about("this program")?;
    let mut words: Vec<OsString> = vec![program.into(), "mount".into(), "--store".into(), opened.root().into()];
    for other in opened.additional_roots() {
        words.extend(["--additional-store".into(), other.into()]);
    }
    words.extend((0..global.verbose).map(|_| "--verbose".into()));
    words.extend(["-o".into(), "allow_other,suid,dev".into(), image.reference.clone().into()]);
    shell(MOUNT, tree, &words, &image.reference)
}

fn remove(podman: &PodmanStore, reference: &str) -> Result<(), Failure> {
    podman.remove_name(reference, |tree| shell(UNMOUNT, tree, &[], reference))?;
    say!("{reference}");
    Ok(())
}

/// Removes images whose names now belong to others, as after a new pull, unless a container or another image of podman is on
/// them. What cannot be removed stays until the next time.
fn remove_unnamed(podman: &PodmanStore) -> Result<(), Failure> {
    let unnamed = podman.unnamed()?;
    if unnamed.is_empty() {
        return Ok(());
    }
    let Some(used) = in_use() else { return Ok(()) };
    for (id, base) in unnamed.iter().filter(|(id, base)| !used.needs(id, base)) {
        let removed = podman.remove(id, |tree| shell(UNMOUNT, tree, &[], "an earlier image"));
        if let Err(failure) = removed {
            tell!("lamina: {failure}; {} stays until `lamina podman` can remove it", podman.tree(base).display());
        }
    }
    Ok(())
}

/// Returns what podman's own store needs, or `None` if that cannot be found out.
fn in_use() -> Option<InUse> {
    let mut podman = Command::new("podman");
    podman.args(["info", "--format", "{{.Store.GraphRoot}}\n{{.Store.RunRoot}}"]).stdin(Stdio::null());
    let told = podman.output().ok().filter(|told| told.status.success())?;
    let told = String::from_utf8(told.stdout).ok()?;
    let roots: Vec<&Path> = told.lines().filter(|line| !line.is_empty()).map(Path::new).collect();
    if roots.is_empty() { None } else { InUse::read(&roots).ok() }
}

/// Runs a script where podman mounts: in its user and mount namespaces, or on the host for root.
fn shell(script: &str, tree: &Path, words: &[OsString], about: &str) -> Result<(), Failure> {
    let mut command = match rustix::process::geteuid().is_root() {
        true => Command::new("sh"),
        false => {
            let mut podman = Command::new("podman");
            podman.args(["unshare", "sh"]);
            podman
        }
    };
    command.args(["-c", script, "sh"]).arg(tree).args(words).stdin(Stdio::null());
    let status = command.status().map_err(|error| {
        Failure::new("podman", error).with_hint("install podman: it makes the namespaces in which images are mounted")
    })?;
    // What failed has been printed.
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(
            about,
            format_args!("it cannot be mounted or unmounted where podman looks for it ({status})"),
        )),
    }
}

/// Whether a `storage.conf` of podman names the directory. Only to tell the user: podman's own reader has more rules.
fn is_configured(directory: &Path) -> bool {
    let named = std::env::var_os("CONTAINERS_STORAGE_CONF").map(PathBuf::from);
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(std::env::home_dir()?.join(".config")));
    let of_user = config.map(|config| config.join("containers/storage.conf"));
    let all = [named, of_user, Some("/etc/containers/storage.conf".into())];
    let directory = directory.display().to_string();
    all.into_iter().flatten().any(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains(&directory)))
}
