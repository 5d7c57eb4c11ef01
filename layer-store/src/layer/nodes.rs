//! The parts of a layer's tree while it is built: `tree` builds it while the tar is read, `links` and `markers` resolve
//! what had to wait for the end of the tar, and `plan` puts it into the order of the index.

use crate::tar::NormalPath;
use crate::{Kind, Timestamp};

/// No inode: the name is only a whiteout.
pub(super) const NONE: u32 = u32::MAX;

/// The inode of the layer's root directory.
pub(super) const ROOT: u32 = 0;

/// The content of an inode.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload {
    /// Content in one run from this offset of the blob.
    Whole(u64),
    /// Content in segments `first..first + count`.
    Sparse {
        first: u32,
        count: u32,
    },
    /// A link target in the heap.
    Symlink {
        start: u32,
        length: u32,
    },
    Device {
        major: u32,
        minor: u32,
    },
    /// A directory (its names are found by its inode), a FIFO or a socket.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) permissions: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) payload: Payload,
    pub(super) xattrs: u32,
    pub(super) content_hash: u128,
    /// A directory without its own entry, known only from paths below it.
    pub(super) implicit: bool,
    /// A directory that hides what lower layers have in it.
    pub(super) opaque: bool,
    /// A directory that takes nothing from lower layers, not even its attributes.
    pub(super) replaced: bool,
}

/// A name in a directory of the layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameSlot {
    pub(super) dir: u32,
    pub(super) name_start: u32,
    pub(super) name_length: u8,
    /// The layer also has a whiteout of this name.
    pub(super) whited: bool,
    pub(super) target: SlotTarget,
}

/// What a name refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotTarget {
    Nothing,
    Inode(u32),
    /// A hard link whose target did not exist when the entry was read: an index into the pending links.
    Pending(u32),
    /// A hard link into the layers below: an index into the pending links.
    Foreign(u32),
}

/// A hard link that could not be bound when it was read.
#[derive(Clone, Debug)]
pub(super) struct PendingLink {
    /// The entry's own path, for messages.
    pub(super) path: NormalPath,
    pub(super) target: NormalPath,
    pub(super) slot: u32,
}

/// A marker. It acts on the layers below and not on this layer's own tree, so it is kept until that tree is complete.
#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub(super) dir: NormalPath,
    /// The name to delete; `None` makes the directory opaque.
    pub(super) whited: Option<Box<[u8]>>,
}

impl Inode {
    /// Creates a directory that a layer implies but does not describe: `0755 root:root`, with time 0. If a lower layer
    /// has the directory, the attributes there are used instead.
    pub(super) fn implicit_directory() -> Self {
        Self {
            kind: Kind::Directory,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            payload: Payload::Nothing,
            xattrs: 0,
            content_hash: 0,
            implicit: true,
            opaque: false,
            replaced: false,
        }
    }
}
