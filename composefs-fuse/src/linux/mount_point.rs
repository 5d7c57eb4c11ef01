//! How a directory is mounted on: by the kernel for root, by `fusermount3` for others.

use super::fusermount::{self, HelperError};
use super::unmount::{Unmount, unmount_absolute};
use crate::mount::{DEVICE, MountError, MountOptions, MountPoint, SUBTYPE, escaped};
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

impl MountPoint {
    /// Mounts here. Returns the descriptor from which the kernel's requests are read.
    ///
    /// Root mounts by itself. Everyone else, and a root without the right to mount, uses `fusermount3`.
    ///
    /// # Errors
    /// Says what is missing and what to do about it. Nothing is mounted then.
    pub fn mount(&self, options: &MountOptions) -> Result<OwnedFd, MountError> {
        if rustix::process::geteuid().is_root() {
            match self.mount_directly(options) {
                Err(MountError::Refused { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                result => return result,
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
            (options.noatime, MountFlags::NOATIME),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        // fs/fuse/inode.c: rootmode is the type of the root, in octal. The kernel asks for its attributes later.
        let mut text = format!(
            "fd={},rootmode=40000,user_id={},group_id={}",
            device.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw()
        );
        for word in options.access_words() {
            text.push(',');
            text.push_str(word);
        }
        let refused = |source: io::Error| MountError::Refused { path: self.path().to_owned(), source };
        let text = CString::new(text).map_err(|error| refused(error.into()))?;
        let kind = format!("fuse.{}", options.subtype);
        rustix::mount::mount(&*options.fsname, self.path(), &*kind, flags, Some(text.as_c_str()))
            .map_err(|errno| refused(errno.into()))?;
        Ok(device)
    }

    fn mount_through_helper(&self, options: &MountOptions) -> Result<OwnedFd, MountError> {
        // The helper opens the device as the user who calls it, and its own message is less clear.
        rustix::fs::access(DEVICE, Access::READ_OK | Access::WRITE_OK).map_err(device_error)?;
        let mut words = vec!["ro", "nosuid", "nodev"];
        words.extend(options.noexec.then_some("noexec"));
        words.extend(options.noatime.then_some("noatime"));
        words.extend(options.access_words());
        let text = format!("{},fsname={},subtype={}", words.join(","), escaped(&options.fsname), options.subtype);
        fusermount::mount(self.path(), text.as_ref()).map_err(|error| match error {
            HelperError::Missing => MountError::NoHelper,
            HelperError::Broken(cause) => MountError::BrokenHelper(cause),
            HelperError::Refused(said) if said.contains("user_allow_other") => MountError::AllowOtherRefused,
            HelperError::Refused(complaint) => MountError::HelperRefused { path: self.path().to_owned(), complaint },
        })
    }

    /// Unmounts a mount that was made here with [`MountOptions::subtype`] `subtype`.
    ///
    /// # Errors
    /// As [`unmount`](super::unmount).
    pub(super) fn unmount_type(&self, subtype: &str, how: Unmount) -> Result<(), MountError> {
        unmount_absolute(self.path(), subtype, how)
    }

    /// Unmounts a mount of the default type that was made here.
    ///
    /// # Errors
    /// As [`unmount`](super::unmount).
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        self.unmount_type(SUBTYPE, how)
    }
}

fn device_error(errno: Errno) -> MountError {
    match errno {
        Errno::ACCESS | Errno::PERM => MountError::DeviceRefused(errno.into()),
        _ => MountError::NoDevice(errno.into()),
    }
}
