//! Sets the attributes of an inode on the host to those in the view.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

use super::{MaterializeOptions, Materialized};
use crate::{Attr, Ino, Kind, Timestamp, View, ViewError};

/// Set-user-ID and set-group-ID.
const SET_IDS: u32 = 0o6000;

/// The extended attributes to set on one inode.
pub(super) type Xattrs<'view> = Vec<(&'view [u8], &'view [u8])>;

/// Returns the attributes that may be set under `options`, and counts the others.
pub(super) fn xattrs<'view>(
    view: &'view View,
    ino: Ino,
    options: &MaterializeOptions,
    made: &mut Materialized,
) -> Result<Xattrs<'view>, ViewError> {
    let mut wanted = Vec::new();
    for name in view.xattr_names(ino)? {
        let of_kernel = !name.starts_with(b"user.") && !name.starts_with(b"system.");
        let left_out = if options.without_owners { !name.starts_with(b"user.") } else { of_kernel };
        if left_out && !options.keeps_privileges() {
            made.xattrs_left_out += 1;
        } else {
            wanted.push((name, view.xattr(ino, name)?.unwrap_or_default()));
        }
    }
    Ok(wanted)
}

/// Returns the permissions that a file gets under `options`.
pub(super) fn permissions(attr: &Attr, options: &MaterializeOptions) -> u32 {
    // Such a file gives others the rights of its owner.
    if !options.keeps_privileges() && attr.kind != Kind::Symlink {
        attr.permissions & !SET_IDS
    } else {
        attr.permissions
    }
}

/// Sets the attributes of an open file or directory. Times are set last, because everything else changes them.
pub(super) fn describe_open(
    file: BorrowedFd<'_>,
    attr: &Attr,
    xattrs: &Xattrs<'_>,
    options: &MaterializeOptions,
) -> io::Result<()> {
    if !options.without_owners {
        rustix::fs::fchown(file, Some(Uid::from_raw(attr.uid)), Some(Gid::from_raw(attr.gid)))?;
    }
    for (name, value) in xattrs {
        rustix::fs::fsetxattr(file, *name, value, XattrFlags::empty())?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(permissions(attr, options)))?;
    Ok(rustix::fs::futimens(file, &times(attr.mtime))?)
}

/// Sets the attributes of the node or symbolic link `name` in `directory`.
pub(super) fn describe_at(
    directory: BorrowedFd<'_>,
    name: &[u8],
    attr: &Attr,
    xattrs: &Xattrs<'_>,
    options: &MaterializeOptions,
) -> io::Result<()> {
    let itself = AtFlags::SYMLINK_NOFOLLOW;
    if !options.without_owners {
        let (uid, gid) = (Some(Uid::from_raw(attr.uid)), Some(Gid::from_raw(attr.gid)));
        rustix::fs::chownat(directory, name, uid, gid, itself)?;
    }
    if !xattrs.is_empty() {
        // Before Linux 6.13 there is no system call for this that is relative to a directory.
        let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        for (attribute, value) in xattrs {
            rustix::fs::lsetxattr(path.as_slice(), *attribute, value, XattrFlags::empty())?;
        }
    }
    if attr.kind != Kind::Symlink {
        let mode = Mode::from_raw_mode(permissions(attr, options));
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(directory, name, &times(attr.mtime), itself)?)
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}
