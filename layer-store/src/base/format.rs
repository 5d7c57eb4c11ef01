//! The base: the merge index of one stack of layers.
//!
//! ```text
//! file      = section file (see `section_file`), magic "LAMBASE\0", version VERSION, with these sections:
//!   0 layers     32-byte DiffIDs      bottom first
//!   1 dirs       DirRecord *          directories to which more than one layer contributes; 0 is the root
//!   2 entries    EntryRecord *        the names of one directory are contiguous, in byte order
//!   3 heap       bytes                names
//!   4 attached   AttachedRecord *     directories of one layer directly in a merged one, sorted by (layer, inode)
//!   5 nlinks     NlinkRecord *        link counts that differ from the layer's own, sorted by (layer, inode)
//! ```
//!
//! Everything that comes from only one layer is a reference `(layer, inode)` and is served from that layer's index.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::base_id::VERSION;
use crate::section_file::Format;

pub(crate) const FORMAT: Format = Format { magic: *b"LAMBASE\0", version: VERSION };

pub(super) const LAYERS: usize = 0;
pub(super) const DIRS: usize = 1;
pub(super) const ENTRIES: usize = 2;
pub(super) const HEAP: usize = 3;
pub(super) const ATTACHED: usize = 4;
pub(super) const NLINKS: usize = 5;
pub(super) const SECTIONS: usize = 6;

/// In place of a layer number: the target is a merged directory.
pub(super) const MERGED: u16 = u16::MAX;

/// A merged directory: 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DirRecord {
    /// The layer that has its attributes, counted from the bottom.
    pub(super) layer: U32,
    /// The inode in that layer with its attributes.
    pub(super) inode: U32,
    /// Its first entry.
    pub(super) first: U32,
    /// How many entries.
    pub(super) count: U32,
    /// 2 plus its subdirectories.
    pub(super) nlink: U32,
    /// The merged directory that contains it; the root contains itself.
    pub(super) parent: U32,
}

/// A name in a merged directory: 12 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EntryRecord {
    /// Start of the name in the heap.
    pub(super) name: U32,
    /// The inode in `layer`, or the number of a merged directory.
    pub(super) target: U32,
    /// The layer, or [`MERGED`].
    pub(super) layer: U16,
    /// 1 to 255 bytes.
    pub(super) name_length: u8,
    pub(super) d_type: u8,
}

/// A directory of one layer in a merged directory: 12 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct AttachedRecord {
    pub(super) layer: U32,
    pub(super) inode: U32,
    /// The merged directory that contains it.
    pub(super) parent: U32,
}

/// A link count in the merged tree: 12 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct NlinkRecord {
    pub(super) layer: U32,
    pub(super) inode: U32,
    /// The number of visible names in the merged tree.
    pub(super) nlink: U32,
}
