//! What stands in front of every message.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct fuse_in_header`, 40 bytes: in front of every request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InHeader {
    /// Bytes of the whole request, this header included.
    pub len: u32,
    /// What is asked: an [`Opcode`](super::Opcode), or one that we do not know.
    pub opcode: u32,
    /// The reply must carry the same number.
    pub unique: u64,
    /// The inode it is about.
    pub nodeid: u64,
    /// Who asks.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Their process, 0 if it is outside the server's namespace.
    pub pid: u32,
    /// Units of 8 bytes of extensions behind the request (since 7.38); only creating requests have any.
    pub total_extlen: u16,
    /// Unused.
    pub padding: u16,
}

/// `struct fuse_out_header`, 16 bytes: in front of every reply.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OutHeader {
    /// Bytes of the whole reply, this header included.
    pub len: u32,
    /// 0, or an error number negated; then nothing follows.
    pub error: i32,
    /// The request's number.
    pub unique: u64,
}

impl InHeader {
    /// Bytes on the wire.
    pub const SIZE: usize = size_of::<Self>();
}

impl OutHeader {
    /// Bytes on the wire.
    pub const SIZE: usize = size_of::<Self>();
}

const _: () = assert!(InHeader::SIZE == 40 && OutHeader::SIZE == 16);
