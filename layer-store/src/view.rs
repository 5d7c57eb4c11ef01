//! A base opened for reading.

use crate::{Attr, Ino, Kind};

/// The merged tree of one base, opened for reading: knows nothing of FUSE or virtio.
///
/// Every method takes `&self`, takes no lock and may be called from any number of threads.
#[derive(Debug)]
pub struct View {
    placeholder: Vec<u8>,
}

/// Why a view cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// No such inode in this view (`ESTALE`).
    #[error("no inode {0:?} in this view")]
    NoSuchInode(Ino),
    /// A directory was needed (`ENOTDIR`).
    #[error("inode {0:?} is not a directory")]
    NotDirectory(Ino),
    /// A regular file was needed (`EISDIR` for a directory, else `EINVAL`).
    #[error("inode {0:?} is not a regular file")]
    NotRegular(Ino),
    /// A symbolic link was needed (`EINVAL`).
    #[error("inode {0:?} is not a symbolic link")]
    NotSymlink(Ino),
    /// The blob could not be read, is shorter than its index says, or fails its check (`EIO`).
    #[error("layer {layer}: {path}: {cause}")]
    Damaged {
        /// The layer whose blob is at fault.
        layer: crate::DiffId,
        /// A path in that layer, lossy where it is not UTF-8.
        path: String,
        /// What the host said.
        cause: std::io::Error,
    },
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'view> {
    /// The name: 1 to 255 bytes, neither `/` nor NUL.
    pub name: &'view [u8],
    /// The inode it leads to.
    pub ino: Ino,
    /// That inode's type.
    pub kind: Kind,
    /// Pass this to [`View::entries`] to go on behind this entry: 1 for the first, and so on.
    pub cookie: u64,
}

/// The names of a directory in byte order, without `.` and `..`.
#[derive(Debug)]
pub struct Entries<'view> {
    view: &'view View,
}

impl<'view> Iterator for Entries<'view> {
    type Item = DirEntry<'view>;
    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.view.placeholder.len();
        None
    }
}

/// The names of an inode's extended attributes, in byte order.
#[derive(Debug)]
pub struct XattrNames<'view> {
    view: &'view View,
}

impl<'view> Iterator for XattrNames<'view> {
    type Item = &'view [u8];
    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.view.placeholder.len();
        None
    }
}

/// What `statfs` tells of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inode records in all layers of the base (an upper bound of those visible).
    pub inodes: u64,
    /// Bytes of all blobs of the base.
    pub bytes: u64,
}

impl View {
    /// The inode behind `name` in `dir`, or `None` where there is no such name. `.` and `..` are not names.
    pub fn lookup(&self, dir: Ino, _name: &[u8]) -> Result<Option<Ino>, ViewError> {
        Err(ViewError::NoSuchInode(dir))
    }

    /// What `stat` says of `ino`.
    pub fn attr(&self, ino: Ino) -> Result<Attr, ViewError> {
        Err(ViewError::NoSuchInode(ino))
    }

    /// The parent of a directory; the root is its own.
    pub fn parent(&self, dir: Ino) -> Result<Ino, ViewError> {
        Err(ViewError::NoSuchInode(dir))
    }

    /// The names of `dir` behind cookie `after` (0: from the start).
    pub fn entries(&self, _dir: Ino, _after: u64) -> Result<Entries<'_>, ViewError> {
        Ok(Entries { view: self })
    }

    /// Reads content at `offset` into `buffer`, as much as there is: fewer bytes only at the end of the file.
    pub fn read(&self, ino: Ino, _offset: u64, _buffer: &mut [u8]) -> Result<usize, ViewError> {
        Err(ViewError::NoSuchInode(ino))
    }

    /// The target of a symbolic link: 1 to 4,095 bytes.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], ViewError> {
        Err(ViewError::NoSuchInode(ino))
    }

    /// The value of one extended attribute, or `None`.
    pub fn xattr(&self, ino: Ino, _name: &[u8]) -> Result<Option<&[u8]>, ViewError> {
        Err(ViewError::NoSuchInode(ino))
    }

    /// The names of an inode's extended attributes.
    pub fn xattr_names(&self, _ino: Ino) -> Result<XattrNames<'_>, ViewError> {
        Ok(XattrNames { view: self })
    }

    /// Whether any inode of the base may have extended attributes.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        self.placeholder.is_empty()
    }

    /// Sizes for `statfs`.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
}
