//! A message for the server, and its answer in the types of `fuser`.

use crate::server::{MAX_REPLY, Server};
use crate::wire::{Dirent, FileAttr, InHeader, Opcode, OutHeader, padded};
use fuser::{Errno, FileType, INodeNo, Request};
use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

thread_local! {
    /// The buffer for answers, while no answer is in it. It is as long as [`MAX_REPLY`] after its first use.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The answer to a message.
pub(super) struct Answer {
    buffer: Vec<u8>,
    length: usize,
}

impl Answer {
    /// Asks `server` as the process that has made a call. `parts` are the body of the message, one after the other.
    pub(super) fn of(server: &Server, caller: &Request, opcode: Opcode, inode: INodeNo, parts: &[&[u8]]) -> Self {
        let length = InHeader::SIZE + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = InHeader {
            len: u32::try_from(length).unwrap_or(u32::MAX),
            opcode: opcode as u32,
            unique: caller.unique().0,
            nodeid: inode.0,
            uid: caller.uid(),
            gid: caller.gid(),
            pid: caller.pid(),
            ..InHeader::default()
        };
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(header.as_bytes());
        parts.iter().for_each(|part| message.extend_from_slice(part));
        let mut buffer = BUFFER.take();
        buffer.resize(MAX_REPLY, 0);
        let length = server.handle(&message, &mut buffer);
        Self { buffer, length }
    }

    /// Returns the body, or the error that the server has answered with.
    pub(super) fn body(&self) -> Result<&[u8], Errno> {
        let reply = self.buffer.get(..self.length).unwrap_or_default();
        let (header, body) = OutHeader::ref_from_prefix(reply).map_err(|_| Errno::EIO)?;
        match header.error {
            0 => Ok(body),
            error => Err(error_number(error.saturating_neg())),
        }
    }

    /// Returns the structure that the body begins with.
    pub(super) fn structure<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, Errno> {
        T::read_from_prefix(self.body()?).map(|(structure, _)| structure).map_err(|_| Errno::EIO)
    }

    /// Returns the entries of a listing.
    pub(super) fn entries(&self) -> Result<impl Iterator<Item = (Dirent, &OsStr)>, Errno> {
        let mut rest = self.body()?;
        Ok(std::iter::from_fn(move || {
            let (entry, after) = Dirent::read_from_prefix(rest).ok()?;
            let length = usize::try_from(entry.namelen).ok()?;
            let name = after.get(..length)?;
            rest = rest.get(padded(size_of::<Dirent>().checked_add(length)?)..)?;
            Some((entry, OsStr::from_bytes(name)))
        }))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        BUFFER.set(std::mem::take(&mut self.buffer));
    }
}

/// Returns the error number of the server in the form of this system. For an attribute that is missing Linux has `ENODATA`,
/// and a Mac has `ENOATTR`.
fn error_number(raw: i32) -> Errno {
    if raw == rustix::io::Errno::NODATA.raw_os_error() { Errno::NO_XATTR } else { Errno::from_i32(raw) }
}

/// Returns the type that the mode of an inode has in the bits of `S_IFMT`, which are the same on every Unix.
pub(super) fn file_type(mode: u32) -> FileType {
    match mode >> 12 & 0o17 {
        0o01 => FileType::NamedPipe,
        0o02 => FileType::CharDevice,
        0o04 => FileType::Directory,
        0o06 => FileType::BlockDevice,
        0o12 => FileType::Symlink,
        0o14 => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

/// Returns attributes of the wire in the form of `fuser`.
pub(super) fn attributes(attr: &FileAttr) -> fuser::FileAttr {
    let time = time(attr.mtime.cast_signed(), attr.mtimensec);
    fuser::FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device_number(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Returns the time `nanoseconds` after `seconds` since 1970, or 1970 if this system cannot express it.
fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let exact = time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into())));
    exact.unwrap_or(UNIX_EPOCH)
}

/// Returns a device number of Linux (`new_encode_dev` in `include/linux/kdev_t.h`) in the form of this system: a Mac has
/// the major number in the upper 8 bits and the minor number in the lower 24.
fn device_number(linux: u32) -> u32 {
    if cfg!(target_os = "macos") {
        let (major, minor) = (linux >> 8 & 0xfff, linux & 0xff | linux >> 12 & 0xfff00);
        (major & 0xff) << 24 | minor & 0x00ff_ffff
    } else {
        linux
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        assert_eq!(time(-2, 750_000_000), UNIX_EPOCH - Duration::from_millis(1250));
        assert_eq!(time(2, 5), UNIX_EPOCH + Duration::new(2, 5));
        assert_eq!(time(0, 0), UNIX_EPOCH);
    }

    #[test]
    fn types_are_those_of_the_mode() {
        use layer_store::Kind;
        for (kind, expected) in [
            (Kind::Directory, FileType::Directory),
            (Kind::Regular, FileType::RegularFile),
            (Kind::Symlink, FileType::Symlink),
            (Kind::Fifo, FileType::NamedPipe),
            (Kind::Socket, FileType::Socket),
            (Kind::CharDevice, FileType::CharDevice),
            (Kind::BlockDevice, FileType::BlockDevice),
        ] {
            assert_eq!(file_type(kind.mode_bits() | 0o4755), expected);
        }
    }
}
