//! The layer index: the tree of one layer as flat tables over its blob.
//!
//! ```text
//! file      = section file (see `section_file`), magic "LAMLAYER", version VERSION, with these sections:
//!   0 meta       one MetaRecord
//!   1 inodes     InodeRecord *        inode 0 is the layer's root
//!   2 entries    EntryRecord *        the names of one directory are contiguous
//!   3 heap       bytes                names and link targets
//!   4 segments   SegmentRecord *      content of sparse files
//!   5 xattr sets XattrSetRecord *     set 0 is empty and not stored: set n is record n - 1
//!   6 xattrs     XattrRecord *
//!   7 values     bytes                names and values of extended attributes
//!   8 links      LinkRecord *         every name of every inode that has several, sorted by inode
//!   9 foreign    ForeignRecord *      hard links into the layers below
//! ```
//!
//! An index depends only on the layer's tar. The module `sharing` knows where in the store the bytes of the tar are: in
//! this layer's file or in those of others.
//!
//! A directory owns `visible + controls` consecutive entries. The visible ones, in byte order of their names,
//! are what the layer shows by itself. The controls, also in byte order, act on the layers below:
//! whiteouts, directories that exist only to hold whiteouts ("ghosts"), and hard links into lower layers.
//!
//! Inodes are numbered in the order of a walk: the numbers of a directory's children are contiguous, and a
//! directory's number is less than those of the directories below it. `find` therefore reads the tables from
//! start to end, and the format cannot express a cycle of directories.

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::section_file::Format;

/// The current format. Any change to a record or rule raises the version; older files are rebuilt.
pub(crate) const FORMAT: Format = Format { magic: *b"LAMLAYER", version: 2 };

pub(super) const META: usize = 0;
pub(super) const INODES: usize = 1;
pub(super) const ENTRIES: usize = 2;
pub(super) const HEAP: usize = 3;
pub(super) const SEGMENTS: usize = 4;
pub(super) const XATTR_SETS: usize = 5;
pub(super) const XATTRS: usize = 6;
pub(super) const VALUES: usize = 7;
pub(super) const LINKS: usize = 8;
pub(super) const FOREIGN: usize = 9;
pub(super) const SECTIONS: usize = 10;

/// The layer this index belongs to.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct MetaRecord {
    /// The DiffID.
    pub(crate) diff_id: [u8; 32],
    /// Bytes of the blob.
    pub(crate) blob_length: U64,
    /// Bytes of content of all regular files, holes included.
    pub(crate) content_bytes: U64,
}

/// One inode: 88 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeRecord {
    /// Type and permissions, as `st_mode`.
    pub(crate) mode: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    /// Number of names in this layer; for a directory, 2 plus its visible subdirectories.
    pub(crate) nlink: U32,
    /// Size of a regular file or of a link target in bytes, otherwise 0.
    pub(crate) size: U64,
    pub(crate) mtime_seconds: I64,
    /// 0 to 999,999,999.
    pub(crate) mtime_nanoseconds: U32,
    /// Bits `FLAG_*`.
    pub(crate) flags: U32,
    /// Regular file without `FLAG_SEGMENTS`: where its content begins in the blob.
    pub(crate) content: U64,
    /// Directory: its first entry. Segments: the first one. Symlink: start in the heap. Device: major.
    pub(crate) first: U32,
    /// Directory: visible entries. Segments: how many. Symlink: bytes. Device: minor.
    pub(crate) count: U32,
    /// Directory: control entries after the visible ones.
    pub(crate) controls: U32,
    /// Directory: the directory that contains it; the root contains itself.
    pub(crate) parent: U32,
    /// Number of its set of extended attributes, 0 for none.
    pub(crate) xattrs: U32,
    /// Keeps the record at a multiple of 8 bytes.
    pub(crate) reserved: U32,
    /// Regular file: XXH3-128 of the stored content, low half first. It finds damage and equal content. It does not
    /// protect against attacks: for that there is the SHA-256 of the blob, and content is compared byte by byte before
    /// it is shared.
    pub(crate) content_hash: [u8; 16],
}

/// A directory hides what the layers below have in it.
pub(crate) const FLAG_OPAQUE: u32 = 1;
/// A directory without its own entry in the layer's tar.
pub(crate) const FLAG_IMPLICIT: u32 = 1 << 1;
/// An implicit directory that contains only whiteouts: it is visible only if a lower layer has it.
pub(crate) const FLAG_GHOST: u32 = 1 << 2;
/// A directory that contains a hard link into lower layers, directly or in a subdirectory.
pub(crate) const FLAG_FOREIGN_BELOW: u32 = 1 << 3;
/// A regular file whose content is in segments.
pub(crate) const FLAG_SEGMENTS: u32 = 1 << 4;

/// One name in a directory: 12 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EntryRecord {
    /// Start of the name in the heap.
    pub(crate) name: U32,
    /// The inode; for a `CONTROL_FOREIGN` entry, the number of its record; for a whiteout, 0.
    pub(crate) inode: U32,
    /// 1 to 255 bytes.
    pub(crate) name_length: u8,
    /// `d_type` of the inode, 0 for whiteouts and foreign links.
    pub(crate) d_type: u8,
    /// 0 for a visible entry, otherwise one of `CONTROL_*`.
    pub(crate) control: u8,
    pub(crate) reserved: u8,
}

/// The name is deleted from the layers below.
pub(crate) const CONTROL_WHITEOUT: u8 = 1;
/// A ghost directory.
pub(crate) const CONTROL_GHOST: u8 = 2;
/// A hard link to a file of the layers below.
pub(crate) const CONTROL_FOREIGN: u8 = 3;

/// A run of a file's content: 24 bytes. Runs are in order and do not overlap; what no run covers is zeros.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SegmentRecord {
    pub(crate) file_offset: U64,
    pub(crate) blob_offset: U64,
    /// More than 0.
    pub(crate) length: U64,
}

/// A set of extended attributes: records `first..first + count`, in byte order of their names.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrSetRecord {
    pub(crate) first: U32,
    pub(crate) count: U32,
}

/// One extended attribute: the name in the values section, its value directly after it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrRecord {
    pub(crate) start: U32,
    pub(crate) name_length: U32,
    pub(crate) value_length: U32,
}

/// One name of an inode that has several, and the directory that contains it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LinkRecord {
    pub(crate) inode: U32,
    pub(crate) dir: U32,
    /// The number of the entry.
    pub(crate) entry: U32,
}

/// The target of a hard link into lower layers: a normal path in the heap.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ForeignRecord {
    pub(crate) start: U32,
    pub(crate) length: U32,
}
