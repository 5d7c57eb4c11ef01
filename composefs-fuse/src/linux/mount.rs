//! A directory becomes a mount, and one again.

use super::fusermount::{self, HelperError};
use super::mount_table::mounted_type;
use super::stats_socket::{clear_dead_socket, possible_sockets};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Where the kernel's end of every connection is.
const DEVICE: &str = "/dev/fuse";

/// The type shown in `/proc/self/mounts`, behind `fuse.`.
const SUBTYPE: &str = "lamina";

/// How long a server that is about to be unmounted may take to show that it lives.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a view is mounted. It is always read-only.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Lets other users in, and makes the kernel check modes and owners for everyone (`default_permissions`).
    ///
    /// Without it only the user who mounts gets in, and no mode is checked: root's 0600 files are readable to them,
    /// which is what feeding a VM takes.
    pub allow_other: bool,
    /// Makes the kernel check modes and owners without letting others in.
    pub default_permissions: bool,
    /// Heeds setuid, setgid and file capabilities. Root alone may ask for it.
    pub suid: bool,
    /// Lets device nodes be opened. Root alone may ask for it.
    pub dev: bool,
    /// Refuses to execute anything.
    pub noexec: bool,
    /// What `/proc/self/mounts` shows as the source.
    pub fsname: String,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            default_permissions: false,
            suid: false,
            dev: false,
            noexec: false,
            fsname: "lamina".to_owned(),
        }
    }
}

/// A directory that can be mounted on, by its absolute path.
#[derive(Clone, Debug)]
pub struct MountPoint(PathBuf);

/// Why something was not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is not there.
    #[error("{0}: no such directory; create it first (mkdir)")]
    Missing(PathBuf),
    /// The mount point is something else.
    #[error("{0}: not a directory; a tree is mounted on an empty directory")]
    NotDirectory(PathBuf),
    /// The mount point would hide what is in it.
    #[error("{0}: not empty, and a mount would hide what is there; choose an empty directory")]
    NotEmpty(PathBuf),
    /// The mount point is a mount whose server has died.
    #[error("{0}: a FUSE mount whose server has died is still there; clear it with: lamina umount {0}")]
    Dead(PathBuf),
    /// The mount point cannot be looked at.
    #[error("{path}: {cause}")]
    Unreadable {
        /// The mount point.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// The kernel has no FUSE, or this container no device for it.
    #[error("{DEVICE} is missing; load the module (modprobe fuse), or give the container the device")]
    NoDevice,
    /// This user may not open the device.
    #[error("{DEVICE} may not be opened by this user; as root: chmod 666 {DEVICE}")]
    DeviceRefused,
    /// An ordinary user cannot mount without the helper.
    #[error("fusermount3 is not installed, and only root can mount without it; install the package fuse3")]
    NoHelper,
    /// The helper could not be run.
    #[error("fusermount3 could not be run: {0}")]
    BrokenHelper(io::Error),
    /// `allow_other` by an ordinary user, not allowed on this host.
    #[error("other users may only be let in if /etc/fuse.conf has a line user_allow_other; as root, add it")]
    AllowOtherRefused,
    /// An option for root alone.
    #[error("option {0} is for root alone; leave it out")]
    RootOnly(&'static str),
    /// The helper refused.
    #[error("{path}: fusermount3: {complaint}")]
    HelperRefused {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        complaint: String,
    },
    /// The kernel refused.
    #[error("{path}: cannot mount: {cause}")]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
    /// Nothing is mounted there.
    #[error("{0}: nothing is mounted there")]
    NotMounted(PathBuf),
    /// What is mounted there is somebody else's.
    #[error("{0}: not a mount of Lamina; take it away with: umount {0}")]
    Foreign(PathBuf),
    /// It is in use.
    #[error("{0}: busy: files are open, or a process has its working directory there")]
    Busy(PathBuf),
}

/// How a mount is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails if it is busy.
    Clean,
    /// Vanishes from the tree at once; ends when the last file is closed.
    Lazy,
}

impl MountPoint {
    /// Looks whether `path` is an empty directory.
    ///
    /// # Errors
    /// Says which of these it is not.
    pub fn new(path: &Path) -> Result<Self, MountError> {
        let failed = |cause: io::Error| match Errno::from_io_error(&cause) {
            Some(Errno::NOENT) => MountError::Missing(path.to_owned()),
            Some(Errno::NOTDIR) => MountError::NotDirectory(path.to_owned()),
            Some(Errno::NOTCONN) => MountError::Dead(path.to_owned()),
            _ => MountError::Unreadable { path: path.to_owned(), cause },
        };
        let absolute = path.canonicalize().map_err(failed)?;
        match absolute.read_dir().map_err(failed)?.next() {
            None => Ok(Self(absolute)),
            Some(_) => Err(MountError::NotEmpty(path.to_owned())),
        }
    }

    /// The absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts here. Returns the descriptor from which the kernel's requests are read.
    ///
    /// Root mounts by itself; everyone else, and a root without the right to mount, through `fusermount3`.
    ///
    /// # Errors
    /// Says what is missing and what to do about it; nothing is mounted then.
    pub fn mount(&self, options: &MountOptions) -> Result<OwnedFd, MountError> {
        if rustix::process::geteuid().is_root() {
            match self.mount_directly(options) {
                Err(MountError::Refused { cause, .. }) if cause.kind() == io::ErrorKind::PermissionDenied => {}
                outcome => return outcome,
            }
        }
        self.mount_through_helper(options)
    }

    fn mount_directly(&self, options: &MountOptions) -> Result<OwnedFd, MountError> {
        let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(device_error)?;
        let mut flags = MountFlags::RDONLY;
        for (wanted, flag) in [
            (!options.suid, MountFlags::NOSUID),
            (!options.dev, MountFlags::NODEV),
            (options.noexec, MountFlags::NOEXEC),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        // fs/fuse/inode.c: rootmode in octal is the root's type; its attributes are asked for later.
        let mut text = format!(
            "fd={},rootmode=40000,user_id={},group_id={}",
            device.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw()
        );
        for word in access_words(options) {
            text.push(',');
            text.push_str(word);
        }
        let refused = |cause: io::Error| MountError::Refused { path: self.0.clone(), cause };
        let text = CString::new(text).map_err(|error| refused(error.into()))?;
        let kind = format!("fuse.{SUBTYPE}");
        rustix::mount::mount(&*options.fsname, &self.0, &*kind, flags, Some(text.as_c_str()))
            .map_err(|errno| refused(errno.into()))?;
        Ok(device)
    }

    fn mount_through_helper(&self, options: &MountOptions) -> Result<OwnedFd, MountError> {
        for (wanted, word) in [(options.suid, "suid"), (options.dev, "dev")] {
            if wanted {
                return Err(MountError::RootOnly(word));
            }
        }
        // The helper opens the device as the user who calls it, and says less clearly what is wrong.
        rustix::fs::access(DEVICE, Access::READ_OK | Access::WRITE_OK).map_err(device_error)?;
        let mut words = vec!["ro", "nosuid", "nodev"];
        words.extend(options.noexec.then_some("noexec"));
        words.extend(access_words(options));
        let source = options.fsname.replace('\\', "\\\\").replace(',', "\\,");
        let text = format!("{},fsname={source},subtype={SUBTYPE}", words.join(","));
        fusermount::mount(&self.0, text.as_ref()).map_err(|error| match error {
            HelperError::Missing => MountError::NoHelper,
            HelperError::Broken(cause) => MountError::BrokenHelper(cause),
            HelperError::Refused(said) if said.contains("user_allow_other") => MountError::AllowOtherRefused,
            HelperError::Refused(complaint) => MountError::HelperRefused { path: self.0.clone(), complaint },
        })
    }

    /// Takes the mount away again.
    ///
    /// # Errors
    /// As [`unmount`].
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        unmount_absolute(&self.0, how)
    }
}

/// Takes away the mount at `path`, also one whose server has died: that one even if it is busy, for whoever has files
/// open there gets nothing but `ENOTCONN` any more. The default socket of a dead server goes too.
///
/// # Errors
/// [`MountError::NotMounted`], [`MountError::Foreign`], [`MountError::Busy`], or what the kernel or the helper said.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), MountError> {
    let failed = |cause| MountError::Unreadable { path: path.to_owned(), cause };
    // A dead mount cannot be resolved, its parent can.
    let absolute = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map_err(failed)?.join(name)
        }
        _ => path.canonicalize().map_err(failed)?,
    };
    let absolute = if is_symlink(&absolute) { absolute.canonicalize().map_err(failed)? } else { absolute };
    let sockets = possible_sockets(&absolute).unwrap_or_default();
    match unmount_absolute(&absolute, how) {
        Err(MountError::Busy(_)) if is_dead(&absolute) => unmount_absolute(&absolute, Unmount::Lazy),
        outcome => outcome,
    }?;
    sockets.iter().for_each(|socket| clear_dead_socket(socket));
    Ok(())
}

/// Whether the server of the mount at `path` has died. Asks for what no kernel keeps (`fuse_statfs`): of a dead server
/// the kernel knows at once, and one that does not answer within [`PATIENCE`] lives, however badly.
fn is_dead(path: &Path) -> bool {
    let (sender, answer) = channel();
    let path = path.to_owned();
    // Not waited for: it is stuck in the kernel for as long as the server is stuck.
    let asking = std::thread::Builder::new().spawn(move || sender.send(rustix::fs::statfs(&path).err()));
    asking.is_ok() && answer.recv_timeout(PATIENCE) == Ok(Some(Errno::NOTCONN))
}

/// Whether `path` is a symbolic link. Sends no message if it is the root of a FUSE mount, whose server may be stuck.
fn is_symlink(path: &Path) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, StatxFlags::TYPE);
    found.is_ok_and(|found| FileType::from_raw_mode(found.stx_mode.into()) == FileType::Symlink)
}

fn unmount_absolute(path: &Path, how: Unmount) -> Result<(), MountError> {
    match mounted_type(path) {
        Ok(Some(kind)) if kind == format!("fuse.{SUBTYPE}") => {}
        Ok(Some(_)) => return Err(MountError::Foreign(path.to_owned())),
        Ok(None) => return Err(MountError::NotMounted(path.to_owned())),
        Err(cause) => return Err(MountError::Unreadable { path: path.to_owned(), cause }),
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
        HelperError::Broken(cause) => MountError::BrokenHelper(cause),
        HelperError::Refused(said) if said.contains("busy") => MountError::Busy(path.to_owned()),
        HelperError::Refused(said) if said.contains("not found") || said.contains("not mounted") => {
            MountError::NotMounted(path.to_owned())
        }
        HelperError::Refused(complaint) => MountError::HelperRefused { path: path.to_owned(), complaint },
    })
}

/// The options that say who gets in.
fn access_words(options: &MountOptions) -> impl Iterator<Item = &'static str> {
    let checked = options.allow_other || options.default_permissions;
    options.allow_other.then_some("allow_other").into_iter().chain(checked.then_some("default_permissions"))
}

fn device_error(errno: Errno) -> MountError {
    match errno {
        Errno::ACCESS | Errno::PERM => MountError::DeviceRefused,
        _ => MountError::NoDevice,
    }
}

/// The number of the FUSE connection behind the mount at `path`, which no other live mount of this kernel has.
/// No message is sent for it.
pub(super) fn connection_number(path: &Path) -> io::Result<u32> {
    // fs/fuse/dir.c: with AT_STATX_DONT_SYNC the kernel answers from what it has.
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok(found.stx_dev_minor)
}
