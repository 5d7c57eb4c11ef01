//! Unmounting, by the kernel or by `fusermount3`, and waiting until the server has let go of the store.

use super::fusermount::{self, HelperError};
use super::mount_table::mounted_type;
use super::stats_socket::{clear_dead_socket, possible_sockets, wait_for_end};
use crate::mount::{MountError, SUBTYPE};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long a server may take to show that it is alive before it is unmounted.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a server may take to end after it was unmounted.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How something is unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails if it is busy.
    Clean,
    /// Removes it from the tree at once. It ends when the last file is closed.
    Lazy,
}

/// Whether the server of a mount has let go of the store after the mount was unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It has ended, or goes on only because files are still open ([`Unmount::Lazy`]).
    Released,
    /// It did not end within ten seconds, and may still hold layers in use.
    StillHeld,
}

/// Unmounts the mount at `path`, and waits until its server has ended or at least let go of the store.
///
/// A mount whose server has died is unmounted even if it is busy, because its open files fail with `ENOTCONN` anyway. The
/// default socket of a dead server is removed.
///
/// # Errors
/// [`MountError::NotMounted`], [`MountError::Foreign`], [`MountError::Busy`], or what the kernel or the helper said.
pub fn unmount(path: &Path, how: Unmount) -> Result<Unmounted, MountError> {
    let failed = |source| MountError::Unreadable { path: path.to_owned(), source };
    // The path of a dead mount cannot be resolved, but that of its parent can.
    let absolute = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map_err(failed)?.join(name)
        }
        _ => path.canonicalize().map_err(failed)?,
    };
    let absolute = if is_symlink(&absolute) { absolute.canonicalize().map_err(failed)? } else { absolute };
    let sockets = possible_sockets(&absolute).unwrap_or_default();
    match unmount_absolute(&absolute, SUBTYPE, how) {
        Err(MountError::Busy(_)) if is_dead(&absolute) => unmount_absolute(&absolute, SUBTYPE, Unmount::Lazy),
        result => result,
    }?;
    let deadline = Instant::now() + END_PATIENCE;
    sockets.iter().for_each(|socket| clear_dead_socket(socket));
    let ended = sockets.iter().all(|socket| wait_for_end(socket, deadline));
    Ok(if ended { Unmounted::Released } else { Unmounted::StillHeld })
}

/// Returns whether the server of the mount at `path` has died. Asks for something that no kernel caches (`fuse_statfs`):
/// for a dead server the kernel answers at once, and a server that does not answer within [`PATIENCE`] is alive but slow.
fn is_dead(path: &Path) -> bool {
    let (sender, answer) = channel();
    let path = path.to_owned();
    // Not joined: it is stuck in the kernel for as long as the server is stuck.
    let asking = std::thread::Builder::new().spawn(move || sender.send(rustix::fs::statfs(&path).err()));
    asking.is_ok() && answer.recv_timeout(PATIENCE) == Ok(Some(Errno::NOTCONN))
}

/// Returns whether `path` is a symbolic link. Sends no message to the server of a FUSE mount there, which may be stuck.
fn is_symlink(path: &Path) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, StatxFlags::TYPE);
    found.is_ok_and(|found| FileType::from_raw_mode(found.stx_mode.into()) == FileType::Symlink)
}

pub(super) fn unmount_absolute(path: &Path, subtype: &str, how: Unmount) -> Result<(), MountError> {
    match mounted_type(path) {
        Ok(Some(kind)) if kind.strip_prefix("fuse.") == Some(subtype) => {}
        Ok(Some(_)) => return Err(MountError::Foreign(path.to_owned())),
        Ok(None) => return Err(MountError::NotMounted(path.to_owned())),
        Err(source) => return Err(MountError::Unreadable { path: path.to_owned(), source }),
    }
    let flags = match how {
        Unmount::Clean => UnmountFlags::NOFOLLOW,
        Unmount::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(path, flags) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY) => return Err(MountError::Busy(path.to_owned())),
        Err(Errno::INVAL | Errno::NOENT) => return Err(MountError::NotMounted(path.to_owned())),
        Err(_) => {}
    }
    fusermount::unmount(path, how == Unmount::Lazy).map_err(|error| match error {
        HelperError::Missing => MountError::NoHelper,
        HelperError::Broken(source) => MountError::BrokenHelper(source),
        HelperError::Refused(said) if said.contains("busy") => MountError::Busy(path.to_owned()),
        HelperError::Refused(said) if said.contains("not found") || said.contains("not mounted") => {
            MountError::NotMounted(path.to_owned())
        }
        HelperError::Refused(complaint) => MountError::HelperRefused { path: path.to_owned(), complaint },
    })
}
