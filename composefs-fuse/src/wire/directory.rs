//! One name in a listing.

use super::inode::EntryOut;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct fuse_dirent` without the name, 24 bytes. The name follows, then zeros up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dirent {
    /// What `d_ino` will say.
    pub ino: u64,
    /// Where the next request starts to go on behind this entry.
    pub off: u64,
    /// Bytes of the name.
    pub namelen: u32,
    /// What `d_type` will say.
    pub kind: u32,
}

/// `struct fuse_direntplus` without the name, 152 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirentPlus {
    /// What `LOOKUP` of the name would answer; `nodeid` 0 here means that it must be asked, not that the name is missing.
    pub entry: EntryOut,
    /// The name.
    pub dirent: Dirent,
}

/// `FUSE_REC_ALIGN`: bytes of a record, a multiple of 8.
#[must_use]
pub const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

const _: () = assert!(size_of::<Dirent>() == 24 && size_of::<DirentPlus>() == 152);
