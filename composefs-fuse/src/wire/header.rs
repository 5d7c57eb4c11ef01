//! The headers of all messages.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct fuse_in_header`, 40 bytes: the beginning of every request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InHeader {
    /// Bytes of the whole request, this header included.
    pub len: u32,
    /// The kind of request: an [`Opcode`](super::Opcode), or one that we do not know.
    pub opcode: u32,
    /// A number that the reply repeats.
    pub unique: u64,
    /// The inode that it is about.
    pub nodeid: u64,
    /// The user that asks.
    pub uid: u32,
    /// The group of that user.
    pub gid: u32,
    /// The process that asks, or 0 if it is outside the server's namespace.
    pub pid: u32,
    /// Units of 8 bytes of extensions after the request (since 7.38). Only requests that create something have any.
    pub total_extlen: u16,
    /// Unused.
    pub padding: u16,
}

/// `struct fuse_out_header`, 16 bytes: the beginning of every reply.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OutHeader {
    /// Bytes of the whole reply, this header included.
    pub len: u32,
    /// 0, or a negated error number, after which nothing follows.
    pub error: i32,
    /// The number of the request.
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
