//! Why something was not mounted or unmounted.

use std::io;
use std::path::PathBuf;

/// The kernel's end of every connection.
pub(crate) const DEVICE: &str = "/dev/fuse";

/// Why something was not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point does not exist.
    #[error("{0}: no such directory; create it first (mkdir)")]
    Missing(PathBuf),
    /// The mount point is not a directory.
    #[error("{0}: not a directory; choose an empty directory")]
    NotDirectory(PathBuf),
    /// The mount would hide files.
    #[error("{0}: not empty, and a mount would hide what is there; choose an empty directory")]
    NotEmpty(PathBuf),
    /// The mount point is a mount whose server has died.
    #[error("{0}: a FUSE mount whose server has died is still there; clear it with: lamina umount {0}")]
    Dead(PathBuf),
    /// The mount point cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The mount point.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The kernel has no FUSE, or this container has no device for it.
    #[error("{DEVICE} is missing; load the module (modprobe fuse), or give the container the device")]
    NoDevice(#[source] io::Error),
    /// This user may not open the device.
    #[error("{DEVICE} may not be opened by this user; as root: chmod 666 {DEVICE}")]
    DeviceRefused(#[source] io::Error),
    /// An ordinary user cannot mount without the helper.
    #[error("fusermount3 is not installed, and only root can mount without it; install the package fuse3")]
    NoHelper,
    /// The helper could not be run.
    #[error("cannot run fusermount3: {0}")]
    BrokenHelper(#[source] io::Error),
    /// An ordinary user asked for `allow_other`, which this host does not allow.
    #[error("other users may only be let in if /etc/fuse.conf has a line user_allow_other; as root, add it")]
    AllowOtherRefused,
    /// The helper refused.
    #[error("{path}: fusermount3: {complaint}")]
    HelperRefused {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        complaint: String,
    },
    /// The program umount refused.
    #[error("{path}: umount: {complaint}")]
    UnmountRefused {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        complaint: String,
    },
    /// The kernel refused.
    #[error("{path}: cannot mount: {source}")]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Nothing is mounted there.
    #[error("{0}: nothing is mounted there")]
    NotMounted(PathBuf),
    /// Another file system is mounted there.
    #[error("{0}: not a mount of Lamina; take it away with: umount {0}")]
    Foreign(PathBuf),
    /// The mount is in use.
    #[error("{0}: busy: files are open, or a process has its working directory there")]
    Busy(PathBuf),
}
