//! Names, attributes, content and link targets.

use super::{CACHE_SECONDS, Server};
use crate::reply::Reply;
use crate::request::FuseRequest;
use crate::wire::{AttrOut, EntryOut, FileAttr, ReadIn, Statfs};
use layer_store::{Attr, Ino, ViewError};
use rustix::io::Errno;

/// The block size in which sizes are reported, and the recommended length of a read.
const BLOCK: u32 = 4096;

impl Server {
    pub(super) fn lookup(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let name = request.name()?;
        let base = Ino::from_raw(request.header.nodeid);
        let entry = self.entry_of(base, name).map_err(|error| self.errno(&error))?;
        reply.put_structure(&entry)
    }

    pub(super) fn getattr(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let attr = self.view.attr(Ino::from_raw(request.header.nodeid)).map_err(|error| self.errno(&error))?;
        reply.put_structure(&AttrOut {
            attr_valid: CACHE_SECONDS,
            attr_valid_nsec: 0,
            dummy: 0,
            attr: self.file_attr(&attr),
        })
    }

    pub(super) fn readlink(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let ino = Ino::from_raw(request.header.nodeid);
        reply.put(self.view.readlink(ino).map_err(|error| self.errno(&error))?)
    }

    pub(super) fn read(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let (wanted, _) = request.structure::<ReadIn>()?;
        if wanted.offset == 0 {
            self.stats.record_beginning();
        }
        let room = reply.room();
        let size = usize::try_from(wanted.size).unwrap_or(usize::MAX).min(room.len());
        let buffer = room.get_mut(..size).unwrap_or_default();
        let read = self.view.read(Ino::from_raw(request.header.nodeid), wanted.offset, buffer);
        reply.extend(read.map_err(|error| self.errno(&error))?);
        Ok(())
    }

    pub(super) fn statfs(&self, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let totals = self.view.totals();
        reply.put_structure(&Statfs {
            blocks: totals.bytes.div_ceil(u64::from(BLOCK)),
            files: totals.inodes,
            bsize: BLOCK,
            namelen: 255,
            frsize: BLOCK,
            ..Statfs::default()
        })
    }
}

impl Server {
    /// Returns the answer to `LOOKUP` of `name`. `.` is the inode itself and `..` a directory's parent, by which the kernel
    /// finds an inode that it knows only by number (`EXPORT_SUPPORT`; `fuse_get_dentry` in `fs/fuse/inode.c`).
    /// What it has found so has no name but `/` in itself, and is looked up by that when it is checked again
    /// (`fuse_dentry_revalidate`): overlayfs does so for the origin of a file that it has copied up, and a name that is
    /// missing makes the file stale.
    fn entry_of(&self, base: Ino, name: &[u8]) -> Result<EntryOut, ViewError> {
        let found = match name {
            b"." | b"/" => Some(base),
            b".." => Some(self.view.parent(base)?),
            name => self.view.lookup(base, name)?,
        };
        match found {
            Some(ino) => Ok(self.entry(&self.view.attr(ino)?)),
            // Number 0 with a lifetime makes the kernel cache that the name is missing. It would not cache ENOENT.
            None => Ok(EntryOut { entry_valid: CACHE_SECONDS, ..EntryOut::default() }),
        }
    }

    /// Returns the entry of a name that leads to the inode of `attr`.
    pub(super) fn entry(&self, attr: &Attr) -> EntryOut {
        EntryOut {
            nodeid: attr.ino.get(),
            generation: 0,
            entry_valid: CACHE_SECONDS,
            attr_valid: CACHE_SECONDS,
            entry_valid_nsec: 0,
            attr_valid_nsec: 0,
            attr: self.file_attr(attr),
        }
    }

    /// Returns `attr` in the form of the protocol. A layer records one time, so all three are the same.
    fn file_attr(&self, attr: &Attr) -> FileAttr {
        let (uid, gid) =
            if self.namespace.is_some_and(|namespace| namespace.only_root) { (0, 0) } else { (attr.uid, attr.gid) };
        let seconds = attr.mtime.seconds.cast_unsigned();
        let nanoseconds = attr.mtime.nanoseconds;
        FileAttr {
            ino: self.shown_number(attr.ino),
            size: attr.size,
            blocks: attr.blocks,
            atime: seconds,
            mtime: seconds,
            ctime: seconds,
            atimensec: nanoseconds,
            mtimensec: nanoseconds,
            ctimensec: nanoseconds,
            mode: attr.kind.mode_bits() | attr.permissions,
            nlink: attr.nlink,
            uid,
            gid,
            rdev: attr.device_number(),
            blksize: BLOCK,
            flags: 0,
        }
    }
}
