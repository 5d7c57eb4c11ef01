//! The first oracle: what kernel overlayfs shows when every layer is a lower directory.
//!
//! A separate process, the program `overlay-oracle`, does the mounts: it is started in a new mount namespace (as an
//! ordinary user also in a new user namespace), covers `/tmp` with a tmpfs, unpacks and mounts there, and prints the
//! tree. The namespace and all its mounts disappear when it ends.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use layer_store::Kind;
use rustix::mount::{MountFlags, mount};

use super::dump::TreeDump;
use super::host_tree::HostTree;
use super::stack::{Content, Stack, content_mark};
use super::unpack::{Unpacking, can_be_set};

/// How an overlay is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// By the host's root user, with `trusted.overlay.*`: owners, devices and all extended attributes are compared.
    Root,
    /// In a user namespace with the option `userxattr`: everything belongs to root, devices are empty files, and only
    /// `user.*` attributes are compared.
    User,
}

impl Privilege {
    const fn argument(self) -> &'static str {
        match self {
            Self::Root => "trusted",
            Self::User => "userxattr",
        }
    }

    /// Returns those that this process can use: both as root, otherwise only the second.
    #[must_use]
    pub fn available() -> &'static [Self] {
        if rustix::process::geteuid().is_root() { &[Self::User, Self::Root] } else { &[Self::User] }
    }

    /// Returns the part of a tree that can be compared with the oracle's: no link counts (overlayfs shows those of the
    /// lower directory), and for [`Privilege::User`] no owners, devices and privileged attributes.
    #[must_use]
    pub fn comparable(self, dump: TreeDump) -> TreeDump {
        dump.with_counted_links().map(|_, line| {
            if self == Self::User {
                (line.uid, line.gid) = (0, 0);
                if matches!(line.kind, Kind::CharDevice | Kind::BlockDevice) {
                    (line.kind, line.rdev) = (Kind::Regular, (0, 0));
                    line.content = Some(empty_content());
                }
            }
            line.xattrs.retain(|name, _| can_be_set(name, line.kind, self == Self::Root));
        })
    }
}

pub(crate) fn empty_content() -> (u64, String) {
    let read_at = |offset, buffer: &mut [u8]| anyhow::Ok(Content::Fill(0).read_at(offset, buffer));
    (0, content_mark(0, read_at).expect("there is nothing to read"))
}

/// Asks the program `overlay-oracle` what the stack shows: path and line, or why overlayfs cannot show it.
///
/// # Errors
/// If the program cannot be started, or the stack cannot be unpacked or mounted.
pub fn shown_by_overlayfs(program: &Path, privilege: Privilege, stack: &Stack) -> Result<BTreeMap<String, String>> {
    ask(program, privilege, None, stack)
}

/// The same, with the link counts of overlayfs, which cannot be compared.
///
/// # Errors
/// As [`shown_by_overlayfs`].
pub fn shown_with_own_link_counts(
    program: &Path,
    privilege: Privilege,
    stack: &Stack,
) -> Result<BTreeMap<String, String>> {
    ask(program, privilege, Some(OWN_LINK_COUNTS), stack)
}

/// The second argument of the program, to print the link counts of overlayfs.
const OWN_LINK_COUNTS: &str = "own-link-counts";

fn ask(program: &Path, privilege: Privilege, further: Option<&str>, stack: &Stack) -> Result<BTreeMap<String, String>> {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if privilege == Privilege::User {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--").arg(program).arg(privilege.argument()).args(further);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("`unshare` of util-linux is needed")?;
    let text = stack.to_string();
    let mut input = child.stdin.take().context("the oracle has no input")?;
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "overlay-oracle {}: {complaint}", privilege.argument());
    Ok(lines(std::str::from_utf8(&output.stdout)?))
}

/// Splits the text of a dump into paths and lines.
#[must_use]
pub fn lines(text: &str) -> BTreeMap<String, String> {
    let cut = |line: &str| line.split_once('\t').map(|(path, line)| (path.to_owned(), line.to_owned()));
    text.lines().filter_map(cut).collect()
}

/// Runs the program `overlay-oracle`: reads a stack from `text`, and prints what overlayfs shows of it.
///
/// # Errors
/// If the arguments are wrong, or the stack cannot be unpacked or mounted.
pub fn oracle_program(arguments: &[String], text: &str) -> Result<String> {
    let argument = arguments.first().map_or("", String::as_str);
    let privilege = [Privilege::Root, Privilege::User]
        .into_iter()
        .find(|privilege| privilege.argument() == argument)
        .with_context(|| format!("{argument:?} is neither `trusted` nor `userxattr`"))?;
    let stack: Stack = text.parse()?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let scratch = Path::new("/tmp");
    mount("tmpfs", scratch, "tmpfs", MountFlags::empty(), c"mode=755,nr_inodes=0").context("mounting a tmpfs")?;
    std::env::set_current_dir(scratch)?;
    let shown = build(&stack, privilege)?;
    let dump = HostTree::open(&shown)?.dump()?;
    let as_shown = arguments.iter().any(|argument| argument == OWN_LINK_COUNTS);
    Ok(if as_shown { dump } else { dump.with_counted_links() }.to_string())
}

/// Unpacks all layers below the current directory, and returns where the merged tree is mounted.
fn build(stack: &Stack, privilege: Privilege) -> Result<PathBuf> {
    let nothing = PathBuf::from("n");
    std::fs::create_dir(&nothing)?;
    set_nothing_attributes(&nothing)?;
    let mut below: Vec<PathBuf> = Vec::new();
    let opaque_xattr = match privilege {
        Privilege::Root => "trusted.overlay.opaque",
        Privilege::User => "user.overlay.opaque",
    };
    for (number, layer) in stack.layers.iter().enumerate() {
        let merged_below = mount_overlay(&below, number, privilege)?;
        let own = PathBuf::from(number.to_string());
        std::fs::create_dir(&own)?;
        let unpacking = Unpacking {
            own: &own,
            below: &below,
            merged_below: &merged_below,
            opaque_xattr,
            privileged: privilege == Privilege::Root,
        };
        unpacking.unpack(layer).with_context(|| format!("unpacking layer {number}"))?;
        below.insert(0, own);
    }
    mount_overlay(&below, stack.layers.len(), privilege)
}

/// An image without layers has a default root: 0755, with the time of the epoch.
fn set_nothing_attributes(nothing: &Path) -> Result<()> {
    std::fs::set_permissions(nothing, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    Ok(std::fs::File::open(nothing)?.set_times(std::fs::FileTimes::new().set_modified(epoch))?)
}

/// Mounts an overlay of `layers`, the highest first, on an empty directory.
fn mount_overlay(layers: &[PathBuf], number: usize, privilege: Privilege) -> Result<PathBuf> {
    let Some(_) = layers.first() else { return Ok("n".into()) };
    let target = PathBuf::from(format!("m{number}"));
    std::fs::create_dir(&target)?;
    let names: Vec<&str> = layers.iter().filter_map(|layer| layer.to_str()).chain(["n"]).collect();
    let userxattr = if privilege == Privilege::User { ",userxattr" } else { "" };
    let options = CString::new(format!("lowerdir={}{userxattr}", names.join(":")))?;
    mount("overlay", &target, "overlay", MountFlags::RDONLY, options.as_c_str()).context("mounting an overlay")?;
    Ok(target)
}
