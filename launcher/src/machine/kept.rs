//! What a machine keeps of what it writes: a VM on a disk, a sparse file with an ext4 file system; a container in a
//! directory with the upper directory of an overlay, whose files belong to the ids of the container.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine;
use crate::failure::{About, Failure};
use crate::host::child;

/// The name of the disk in the machine's directory.
pub(crate) const DISK: &str = "disk.ext4";

/// The name of the directory in the machine's directory.
pub(crate) const DIRECTORY: &str = "writes";

/// Creates an empty disk of `size` bytes that only this user can read. It grows as it is filled; at first it takes
/// about 1 MiB.
///
/// # Errors
/// mkfs.ext4 is missing, or the file system is full.
pub(crate) fn make_disk(path: &Path, size: u64) -> Result<(), Failure> {
    let mkfs = find_mkfs()?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).about(path.display())?;
    rustix::fs::ftruncate(&file, size).about(path.display())?;
    // The inode tables and the journal of a new file are zeros already.
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
    let mut command = Command::new(&mkfs);
    command.args(["-q", "-F", "-m", "0", "-J", "size=16", "-E", options]).arg(path).stdin(Stdio::null());
    let output = command.output().about(mkfs.display())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Failure::new(path.display(), words).with_hint("make room on its file system, or ask for less: --keep=2G"))
}

/// Finds mkfs.ext4, which is in a directory that is not in the `PATH` of ordinary users.
///
/// # Errors
/// It is not installed.
pub(crate) fn find_mkfs() -> Result<PathBuf, Failure> {
    child::find("mkfs.ext4", &["/usr/sbin", "/sbin"]).ok_or_else(|| {
        Failure::new("--keep", "mkfs.ext4 is not installed").with_hint("install it (Debian: apt-get install e2fsprogs)")
    })
}

/// Returns how many bytes the disk at `path` takes on the host, if there is one.
#[must_use]
pub(crate) fn taken(path: &Path) -> Option<u64> {
    Some(path.metadata().ok()?.blocks() * 512)
}

/// Creates an empty directory.
///
/// # Errors
/// It cannot be created.
pub(crate) fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir(path).about(path.display())
}

/// Removes the state of a machine, with what it has kept.
///
/// # Errors
/// Something cannot be removed.
pub(super) fn remove_state(state: &Path) -> Result<(), Failure> {
    engine::remove_writes(&state.join(DIRECTORY))?;
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).about(state.display()),
        _ => Ok(()),
    }
}
