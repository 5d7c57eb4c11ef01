//! A base, opened for reading.

mod blocks;
mod content;
mod copy;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::base::{Base, BaseDir, BaseTarget};
use crate::fault::{self, FaultPoint};
use crate::layer::{EntryTarget, InodeRecord, LayerIndex};
use crate::lease::Lease;
use crate::sharing::Blob;
use crate::{Attr, DiffId, Ino, Kind, Timestamp};
pub use copy::CopyError;

/// The merged tree of one base, opened for reading. It does not depend on FUSE or virtio.
///
/// Every method takes `&self`, takes no lock, keeps no state and may be called from any number of threads.
///
/// An [`Ino`] is `n + 1` for merged directory `n` of the base, and `(layer + 1) << 32 | record` for a record of a
/// layer's index, layers counted from the bottom.
#[derive(Debug)]
pub struct View {
    base: Base,
    layers: Vec<ViewLayer>,
    /// Whether the content of each inode of each layer is known to be sound, if reads are verified. Inode numbers are
    /// dense, so this is an array of atomics, where sparse keys would need a concurrent map such as `dashmap`.
    verdicts: Option<Vec<Box<[AtomicU8]>>>,
    /// These keep the base and its layers from being collected.
    _leases: Vec<Lease>,
}

/// One layer of a view: its index and its tar.
#[derive(Debug, Clone)]
pub(crate) struct ViewLayer {
    pub(crate) index: Arc<LayerIndex>,
    pub(crate) blob: Arc<Blob>,
}

impl AsRef<LayerIndex> for ViewLayer {
    fn as_ref(&self) -> &LayerIndex {
        &self.index
    }
}

/// Why an operation on a view failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The view has no such inode (`ESTALE`).
    #[error("no inode {0:?} in this view")]
    NoSuchInode(Ino),
    /// A directory was needed (`ENOTDIR`).
    #[error("inode {0:?} is not a directory")]
    NotDirectory(Ino),
    /// A regular file was needed (`EISDIR` for a directory, otherwise `EINVAL`).
    #[error("inode {0:?} is not a regular file")]
    NotRegular(Ino),
    /// A symbolic link was needed (`EINVAL`).
    #[error("inode {0:?} is not a symbolic link")]
    NotSymlink(Ino),
    /// The blob could not be read, is shorter than its index says, or has other content (`EIO`).
    #[error("layer {layer}: {path}: {cause}")]
    Damaged {
        /// The layer whose blob is at fault.
        layer: DiffId,
        /// A path in that layer, lossy if it is not UTF-8.
        path: String,
        /// The error of the host.
        cause: io::Error,
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
    /// Pass this to [`View::entries`] to continue after this entry: 1 for the first, and so on.
    pub cookie: u64,
}

/// The sizes that `statfs` reports for a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of inode records in all layers of the base: an upper bound of the visible inodes.
    pub inodes: u64,
    /// Bytes of all blobs of the base.
    pub bytes: u64,
}

/// The states of a file's content: not verified yet, sound, or damaged.
const UNKNOWN: u8 = 0;
const SOUND: u8 = 1;
const UNSOUND: u8 = 2;

/// What an [`Ino`] refers to.
enum Node<'view> {
    Merged(BaseDir<'view>),
    /// The root of a base without layers.
    EmptyRoot,
    Record {
        layer: u32,
        number: u32,
        index: &'view LayerIndex,
        inode: &'view InodeRecord,
    },
}

const fn merged_ino(number: u32) -> Ino {
    Ino::from_raw(number as u64 + 1)
}

const fn record_ino(layer: u32, number: u32) -> Ino {
    Ino::from_raw((layer as u64 + 1) << 32 | number as u64)
}

fn target_ino(target: BaseTarget) -> Ino {
    match target {
        BaseTarget::Layer { layer, inode } => record_ino(layer, inode),
        BaseTarget::Merged(number) => merged_ino(number),
    }
}

impl View {
    pub(crate) fn new(base: Base, layers: Vec<ViewLayer>, leases: Vec<Lease>) -> Self {
        Self { base, layers, verdicts: None, _leases: leases }
    }

    /// Returns the same view, but verifies the whole content of each file when it is first read. A file whose content
    /// has changed since the layer was added fails with [`ViewError::Damaged`]; other files are not affected. This
    /// takes one byte of memory per inode.
    #[must_use]
    pub fn verifying(mut self) -> Self {
        let unknown = |count| (0..count).map(|_| AtomicU8::new(UNKNOWN)).collect();
        self.verdicts = Some(self.layers.iter().map(|layer| unknown(layer.index.inodes().len())).collect());
        self
    }

    /// Verifies a file's content once.
    fn verify(&self, layer: u32, number: u32, files: &ViewLayer) -> io::Result<()> {
        let verdict = self.verdicts.as_ref().and_then(|layers| layers.get(layer as usize)?.get(number as usize));
        let Some(verdict) = verdict else { return Ok(()) };
        if verdict.load(Ordering::Relaxed) == UNKNOWN {
            let sound = files.content_is_sound(number)?;
            verdict.store(if sound { SOUND } else { UNSOUND }, Ordering::Relaxed);
        }
        match verdict.load(Ordering::Relaxed) {
            SOUND => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its content has changed since the layer was added")),
        }
    }

    /// Returns the layers of the base, bottom first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = DiffId> {
        self.base.layers()
    }

    fn node(&self, ino: Ino) -> Result<Node<'_>, ViewError> {
        let raw = ino.get();
        let stale = || ViewError::NoSuchInode(ino);
        match raw.checked_sub(1 << 32) {
            None if ino == Ino::ROOT && self.layers.is_empty() => Ok(Node::EmptyRoot),
            None => {
                let number = raw.checked_sub(1).and_then(|number| u32::try_from(number).ok()).ok_or_else(stale)?;
                self.base.dir(number).map(Node::Merged).ok_or_else(stale)
            }
            Some(packed) => {
                let layer = u32::try_from(packed >> 32).map_err(|_| stale())?;
                let number = u32::try_from(packed & u64::from(u32::MAX)).map_err(|_| stale())?;
                self.record(layer, number).ok_or_else(stale)
            }
        }
    }

    fn record(&self, layer: u32, number: u32) -> Option<Node<'_>> {
        let index = &*self.layers.get(layer as usize)?.index;
        Some(Node::Record { layer, number, index, inode: index.inode(number)? })
    }

    /// Returns the layer's record with an inode's attributes.
    fn described(&self, ino: Ino) -> Result<Option<(&LayerIndex, &InodeRecord)>, ViewError> {
        match self.node(ino)? {
            Node::EmptyRoot => Ok(None),
            Node::Record { index, inode, .. } => Ok(Some((index, inode))),
            Node::Merged(dir) => {
                let place = dir.attributes();
                match self.record(place.layer, place.inode) {
                    Some(Node::Record { index, inode, .. }) => Ok(Some((index, inode))),
                    _ => Err(ViewError::NoSuchInode(ino)),
                }
            }
        }
    }

    /// Returns the inode of `name` in `dir`, or `None` if there is no such name. `.` and `..` are not names.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, ViewError> {
        match self.node(dir)? {
            Node::EmptyRoot => Ok(None),
            Node::Merged(merged) => Ok(self.base.lookup(merged, name).map(|entry| target_ino(entry.target))),
            Node::Record { layer, index, inode, .. } if inode.is_directory() => {
                Ok(index.lookup(inode, name).and_then(|entry| match entry.target {
                    EntryTarget::Inode { number, .. } => Some(record_ino(layer, number)),
                    _ => None,
                }))
            }
            Node::Record { .. } => Err(ViewError::NotDirectory(dir)),
        }
    }

    /// Returns the attributes of `ino`, as for `stat`.
    pub fn attr(&self, ino: Ino) -> Result<Attr, ViewError> {
        let node = self.node(ino)?;
        let Some((index, inode)) = self.described(ino)? else { return Ok(empty_root()) };
        let kind = inode.kind();
        let nlink = match node {
            Node::Merged(dir) => dir.nlink(),
            Node::Record { layer, number, .. } => {
                self.base.nlink_of(layer, number).unwrap_or_else(|| inode.nlink.get())
            }
            Node::EmptyRoot => 2,
        };
        let size = if kind == Kind::Directory { DIRECTORY_SIZE } else { inode.size.get() };
        let blocks = match kind {
            Kind::Regular => blocks::of_content(index.segments(inode), size),
            Kind::Directory => blocks::of_length(size),
            Kind::Symlink => blocks::of_symlink(size),
            _ => 0,
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Attr {
            ino,
            kind,
            permissions: inode.mode.get() & 0o7777,
            nlink,
            uid: inode.uid.get(),
            gid: inode.gid.get(),
            size,
            blocks,
            mtime: inode.mtime(),
            rdev_major: if is_device { inode.first.get() } else { 0 },
            rdev_minor: if is_device { inode.count.get() } else { 0 },
        })
    }

    /// Returns the parent of a directory; the root is its own parent.
    pub fn parent(&self, dir: Ino) -> Result<Ino, ViewError> {
        match self.node(dir)? {
            Node::EmptyRoot => Ok(Ino::ROOT),
            Node::Merged(merged) => Ok(merged_ino(merged.parent())),
            Node::Record { layer, number, inode, .. } if inode.is_directory() => {
                Ok(match self.base.parent_of(layer, number) {
                    Some(merged) => merged_ino(merged),
                    None => record_ino(layer, inode.parent.get()),
                })
            }
            Node::Record { .. } => Err(ViewError::NotDirectory(dir)),
        }
    }

    /// Returns the names of `dir` in byte order after cookie `after` (0: from the start), without `.` and `..`.
    pub fn entries(&self, dir: Ino, after: u64) -> Result<Entries<'_>, ViewError> {
        let start = usize::try_from(after).unwrap_or(usize::MAX);
        let names: Names<'_> = match self.node(dir)? {
            Node::EmptyRoot => Box::new(std::iter::empty()),
            Node::Merged(merged) => {
                let names = self.base.names(merged, start);
                Box::new(names.map(|entry| (entry.name, target_ino(entry.target), entry.kind)))
            }
            Node::Record { layer, index, inode, .. } if inode.is_directory() => {
                Box::new(index.visible(inode, start).filter_map(move |entry| match entry.target {
                    EntryTarget::Inode { number, kind } => Some((entry.name, record_ino(layer, number), kind)),
                    _ => None,
                }))
            }
            Node::Record { .. } => return Err(ViewError::NotDirectory(dir)),
        };
        Ok(Entries { names, cookie: after })
    }

    /// Reads content at `offset` into `buffer` and returns how many bytes were read: fewer than requested only at the
    /// end of the file.
    pub fn read(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<usize, ViewError> {
        let Node::Record { layer, number, index, inode } = self.node(ino)? else {
            return Err(ViewError::NotRegular(ino));
        };
        if inode.kind() != Kind::Regular {
            return Err(ViewError::NotRegular(ino));
        }
        let left = inode.size.get().saturating_sub(offset);
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        fault::point(FaultPoint::ContentAsked);
        let outcome = match self.layers.get(layer as usize) {
            Some(files) => {
                let verified = self.verify(layer, number, files);
                verified.and_then(|()| files.read(index.segments(inode), offset, buffer))
            }
            None => return Err(ViewError::NoSuchInode(ino)),
        };
        outcome.map(|()| wanted).map_err(|cause| ViewError::Damaged {
            layer: index.diff_id(),
            path: index.path_of(number),
            cause,
        })
    }

    /// Returns the target of a symbolic link: 1 to 4,095 bytes.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], ViewError> {
        match self.described(ino)? {
            Some((index, inode)) if inode.kind() == Kind::Symlink => Ok(index.link_target(inode)),
            _ => Err(ViewError::NotSymlink(ino)),
        }
    }

    /// Returns the value of one extended attribute, or `None`.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<&[u8]>, ViewError> {
        let described = self.described(ino)?;
        Ok(described.and_then(|(index, inode)| {
            let mut xattrs = index.xattrs(inode);
            xattrs.find_map(|(known, value)| (known == name).then_some(value))
        }))
    }

    /// Returns the names of an inode's extended attributes, in byte order.
    pub fn xattr_names(&self, ino: Ino) -> Result<impl Iterator<Item = &[u8]>, ViewError> {
        let described = self.described(ino)?;
        Ok(described.into_iter().flat_map(|(index, inode)| index.xattrs(inode).map(|(name, _)| name)))
    }

    /// Whether any inode of the base may have extended attributes.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        self.layers.iter().any(|layer| layer.index.has_xattrs())
    }

    /// Whether any inode of the base may have the extended attribute `name`. Searches all attributes.
    #[must_use]
    pub fn uses_xattr(&self, name: &[u8]) -> bool {
        self.layers.iter().any(|layer| layer.index.uses_xattr(name))
    }

    /// Returns the sizes for `statfs`.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.layers.iter().fold(Totals::default(), |totals, layer| Totals {
            inodes: totals.inodes.saturating_add(layer.index.inodes().len() as u64),
            bytes: totals.bytes.saturating_add(layer.index.blob_length()),
        })
    }
}

/// The `st_size` of every directory: one block, like a small directory on ext4.
const DIRECTORY_SIZE: u64 = 4096;

fn empty_root() -> Attr {
    Attr {
        ino: Ino::ROOT,
        kind: Kind::Directory,
        permissions: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        size: DIRECTORY_SIZE,
        blocks: blocks::of_length(DIRECTORY_SIZE),
        mtime: Timestamp::default(),
        rdev_major: 0,
        rdev_minor: 0,
    }
}

type Names<'view> = Box<dyn Iterator<Item = (&'view [u8], Ino, Kind)> + Send + 'view>;

/// The names of a directory in byte order, without `.` and `..`.
pub struct Entries<'view> {
    names: Names<'view>,
    cookie: u64,
}

impl std::fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

impl<'view> Iterator for Entries<'view> {
    type Item = DirEntry<'view>;

    fn next(&mut self) -> Option<DirEntry<'view>> {
        let (name, ino, kind) = self.names.next()?;
        self.cookie += 1;
        Some(DirEntry { name, ino, kind, cookie: self.cookie })
    }
}
