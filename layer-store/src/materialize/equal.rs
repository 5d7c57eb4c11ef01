//! Finds equal files, so that they can be one file with several names.
//!
//! Two files are equal if their content, owner, mode, time and extended attributes are equal. Content is compared byte
//! for byte; the hash in the index only says which files are worth comparing.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, Mode, OFlags};

use super::{MaterializeError, MaterializeOptions};
use crate::{Attr, Ino, Timestamp, View, ViewError};

/// How many bytes are compared at once.
const PIECE: usize = 128 << 10;

/// An equal file that already exists.
pub(super) enum Twin {
    /// A file in the tree that is being made.
    Made(Ino),
    /// The file with the same name in this directory of another tree.
    Outside(OwnedFd),
}

/// The properties of a file that are known from the index.
type Key = ([u8; 16], u64, u32, u32, u32, Timestamp);

/// The files to which later ones may be equal.
pub(super) struct Equals<'a> {
    view: &'a View,
    options: &'a MaterializeOptions,
    made: HashMap<Key, Vec<Ino>>,
    /// The directories of the other tree from its root to the current one; `None` for those that it does not have.
    outside: Vec<Option<OwnedFd>>,
}

impl<'a> Equals<'a> {
    pub(super) fn new(view: &'a View, options: &'a MaterializeOptions) -> io::Result<Self> {
        let root = match &options.link_to {
            Some(path) => Some(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?),
            None => None,
        };
        Ok(Self { view, options, made: HashMap::new(), outside: vec![root] })
    }

    /// Called when the walk enters a directory.
    pub(super) fn enter(&mut self, name: &[u8]) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let above = self.outside.last().and_then(Option::as_ref);
        let below = above.and_then(|above| rustix::fs::openat(above, name, flags, Mode::empty()).ok());
        self.outside.push(below);
    }

    /// Called when the walk leaves a directory.
    pub(super) fn leave(&mut self) {
        self.outside.pop();
    }

    /// Whether later files may become links of this one.
    pub(super) fn wants_link(&self, attr: &Attr) -> bool {
        self.options.link_equal && attr.kind == crate::Kind::Regular && attr.size > 0
    }

    /// Records an inode of the tree that can be linked to.
    pub(super) fn made(&mut self, ino: Ino) {
        if let Ok(attr) = self.view.attr(ino)
            && self.wants_link(&attr)
            && let Some(key) = self.key(&attr)
        {
            self.made.entry(key).or_default().push(ino);
        }
    }

    /// Finds an equal file that already exists.
    pub(super) fn twin(&self, attr: &Attr, name: &[u8]) -> Result<Option<Twin>, MaterializeError> {
        if let Some(directory) = self.outside.last().and_then(Option::as_ref)
            && self.equal_outside(attr, directory, name)?
        {
            let again = directory
                .try_clone()
                .map_err(|cause| MaterializeError::Host { path: String::from_utf8_lossy(name).into_owned(), cause })?;
            return Ok(Some(Twin::Outside(again)));
        }
        if !self.wants_link(attr) {
            return Ok(None);
        }
        let candidates = self.key(attr).and_then(|key| self.made.get(&key));
        for &candidate in candidates.into_iter().flatten() {
            if self.same_xattrs(attr.ino, candidate)? && self.same_content(attr, candidate)? {
                return Ok(Some(Twin::Made(candidate)));
            }
        }
        Ok(None)
    }

    fn key(&self, attr: &Attr) -> Option<Key> {
        let hash = self.view.content_hash(attr.ino)?;
        Some((hash, attr.size, attr.permissions, attr.uid, attr.gid, attr.mtime))
    }

    fn same_xattrs(&self, one: Ino, other: Ino) -> Result<bool, ViewError> {
        let all = |ino| -> Result<Vec<_>, ViewError> {
            self.view.xattr_names(ino)?.map(|name| Ok((name, self.view.xattr(ino, name)?))).collect()
        };
        Ok(all(one)? == all(other)?)
    }

    fn same_content(&self, attr: &Attr, other: Ino) -> Result<bool, ViewError> {
        self.compare(attr, |offset, piece| Ok(self.view.read(other, offset, piece)? == piece.len()))
    }

    /// Compares content piece by piece with what `read` reads.
    fn compare(
        &self,
        attr: &Attr,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<bool, ViewError>,
    ) -> Result<bool, ViewError> {
        let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
        let mut offset = 0;
        while offset < attr.size {
            let length = self.view.read(attr.ino, offset, &mut ours)?;
            let (ours, theirs) = (ours.get(..length).unwrap_or_default(), theirs.get_mut(..length).unwrap_or_default());
            if !read(offset, theirs)? || ours != theirs {
                return Ok(false);
            }
            offset += length as u64;
        }
        Ok(true)
    }

    fn equal_outside(&self, attr: &Attr, directory: &OwnedFd, name: &[u8]) -> Result<bool, ViewError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else { return Ok(false) };
        let Ok(stat) = rustix::fs::fstat(&file) else { return Ok(false) };
        let mode = attr.kind.mode_bits() | super::inode::permissions(attr, self.options);
        let owner = self.options.without_owners || (stat.st_uid, stat.st_gid) == (attr.uid, attr.gid);
        let mtime = (stat.st_mtime, u64::from(attr.mtime.nanoseconds)) == (attr.mtime.seconds, stat.st_mtime_nsec);
        let size = u64::try_from(stat.st_size) == Ok(attr.size);
        if stat.st_mode != mode || !owner || !mtime || !size || !self.same_xattrs_outside(attr.ino, &file)? {
            return Ok(false);
        }
        let file = File::from(file);
        self.compare(attr, |offset, piece| Ok(file.read_exact_at(piece, offset).is_ok()))
    }

    fn same_xattrs_outside(&self, ino: Ino, file: &OwnedFd) -> Result<bool, ViewError> {
        let mut unused = super::Materialized::default();
        let expected = super::inode::xattrs(self.view, ino, self.options, &mut unused)?;
        let mut names = vec![0; 64 << 10];
        let Ok(length) = rustix::fs::flistxattr(file.as_fd(), names.as_mut_slice()) else { return Ok(false) };
        let names = names.get(..length).unwrap_or_default();
        let found = names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).count();
        let equal = |(name, value): &(&[u8], &[u8])| {
            let mut found = vec![0; 64 << 10];
            let length = rustix::fs::fgetxattr(file.as_fd(), *name, found.as_mut_slice());
            length.is_ok_and(|length| found.get(..length) == Some(value))
        };
        Ok(found == expected.len() && expected.iter().all(equal))
    }
}
