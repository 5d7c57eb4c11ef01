//! Attributes, content and extended attributes of inodes, and the names that lead to them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct fuse_attr`, 88 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileAttr {
    /// The number that `st_ino` shows.
    pub ino: u64,
    /// Bytes of content.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Seconds since 1970 of the last access, two's complement.
    pub atime: u64,
    /// The same of the last modification.
    pub mtime: u64,
    /// The same of the last change of the inode.
    pub ctime: u64,
    /// Nanoseconds to add, below 10^9.
    pub atimensec: u32,
    /// Nanoseconds to add, below 10^9.
    pub mtimensec: u32,
    /// Nanoseconds to add, below 10^9.
    pub ctimensec: u32,
    /// Type and permissions.
    pub mode: u32,
    /// How many names lead to it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as packed by `Attr::device_number`.
    pub rdev: u32,
    /// Bytes that `st_blksize` recommends for one read.
    pub blksize: u32,
    /// `FUSE_ATTR_*`; none is used here.
    pub flags: u32,
}

/// `struct fuse_attr_out`, 104 bytes: the reply to `GETATTR`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttrOut {
    /// Seconds for which the attributes hold.
    pub attr_valid: u64,
    /// Nanoseconds to add.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub dummy: u32,
    /// The attributes.
    pub attr: FileAttr,
}

/// `struct fuse_entry_out`, 128 bytes: the reply to `LOOKUP`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EntryOut {
    /// The inode, or 0 if there is no such name, which the kernel may cache.
    pub nodeid: u64,
    /// Distinguishes inodes that had the same number. Ours never change, so this is always 0.
    pub generation: u64,
    /// Seconds for which the name leads there.
    pub entry_valid: u64,
    /// Seconds for which the attributes hold.
    pub attr_valid: u64,
    /// Nanoseconds to add.
    pub entry_valid_nsec: u32,
    /// Nanoseconds to add.
    pub attr_valid_nsec: u32,
    /// The attributes.
    pub attr: FileAttr,
}

/// `struct fuse_read_in`, 40 bytes: the body of `READ`, `READDIR` and `READDIRPLUS`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadIn {
    /// What `OPEN` answered; here always 0.
    pub fh: u64,
    /// The byte of the file, or the `off` of the last entry that was read.
    pub offset: u64,
    /// The most bytes that are wanted.
    pub size: u32,
    /// Unused here.
    pub read_flags: u32,
    /// Unused here.
    pub lock_owner: u64,
    /// `open(2)` flags; unused here.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// `struct fuse_getxattr_in`, 8 bytes: in front of the name in `GETXATTR`, alone in `LISTXATTR`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetxattrIn {
    /// Bytes the caller has room for; 0 asks for the size.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// `struct fuse_getxattr_out`, 8 bytes: the reply where the size was asked.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetxattrOut {
    /// Bytes that the value or the list of names takes.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// `struct fuse_kstatfs`, 80 bytes: the reply to `STATFS`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statfs {
    /// Size of the file system in units of `frsize`.
    pub blocks: u64,
    /// Free of them.
    pub bfree: u64,
    /// Free for ordinary users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free of them.
    pub ffree: u64,
    /// Bytes recommended for one transfer.
    pub bsize: u32,
    /// Bytes of the longest name.
    pub namelen: u32,
    /// Bytes of one block.
    pub frsize: u32,
    /// Unused.
    pub padding: u32,
    /// Unused.
    pub spare: [u32; 6],
}

/// `struct fuse_dirent` without the name, 24 bytes. The name follows, then zeros up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dirent {
    /// The number that `d_ino` shows.
    pub ino: u64,
    /// The offset at which the next request continues after this entry.
    pub off: u64,
    /// Bytes of the name.
    pub namelen: u32,
    /// The type that `d_type` shows.
    pub kind: u32,
}

/// `struct fuse_direntplus` without the name, 152 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirentPlus {
    /// What `LOOKUP` of the name would answer. Here a `nodeid` of 0 means that the kernel must ask, not that the name is
    /// missing.
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
const _: () = assert!(size_of::<FileAttr>() == 88 && size_of::<AttrOut>() == 104 && size_of::<EntryOut>() == 128);
const _: () = assert!(size_of::<ReadIn>() == 40 && size_of::<Statfs>() == 80);
