//! The records of an EROFS image (`fs/erofs/erofs_fs.h` of Linux) that uncompressed images need.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Kind, Timestamp};

/// The size of a block in bytes: the only size that every kernel with EROFS reads (others came with Linux 6.4).
pub(super) const BLOCK: u64 = 4096;
/// Where the superblock begins.
pub(super) const SUPER_OFFSET: usize = 1024;
/// The unit in which inodes are placed; an inode's number is its offset in the image in these units.
pub(super) const SLOT: u64 = 32;
/// The size of an extended inode in bytes.
pub(super) const INODE: u64 = 64;
/// The size of a compact inode in bytes.
pub(super) const COMPACT_INODE: u64 = 32;
/// The size of a directory entry without its name, in bytes.
pub(super) const DIRENT: usize = 12;
/// The size of [`XattrHeader`] in bytes.
pub(super) const XATTR_HEADER: usize = 12;
/// The unit of the places of shared extended attributes in bytes, and the size of such a place in an inode.
pub(super) const XATTR_UNIT: usize = 4;

/// `feature_compat`: `checksum` is set, and inodes have the time of modification.
const FEATURES: u32 = 0x1 | 0x2;
const MAGIC: u32 = 0xe0f5_e1e2;

/// The superblock: 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    magic: U32,
    /// CRC-32C (without the final inversion) from the start of the superblock to the end of the block, with this field
    /// as 0.
    checksum: U32,
    feature_compat: U32,
    /// Logarithm of the block size.
    block_bits: u8,
    extra_slots: u8,
    root: U16,
    inodes: U64,
    /// The time of every compact inode. It says nothing about when the image was written: its bytes must not depend on that.
    build_time: U64,
    build_time_nanoseconds: U32,
    blocks: U32,
    /// The block from which inode numbers are counted.
    meta_block: U32,
    /// The block from which shared extended attributes are counted.
    xattr_block: U32,
    uuid: [u8; 16],
    volume_name: [u8; 16],
    feature_incompat: U32,
    reserved: [u8; 44],
}

impl Superblock {
    /// Creates the superblock of an image with these counts, whose compact inodes have the time `time` and whose shared
    /// extended attributes begin at the block `xattr_block`. Its checksum is not set yet.
    pub(super) fn new(root: u16, inodes: u64, blocks: u32, xattr_block: u32, uuid: [u8; 16], time: Timestamp) -> Self {
        Self {
            magic: MAGIC.into(),
            checksum: 0.into(),
            feature_compat: FEATURES.into(),
            block_bits: 12,
            extra_slots: 0,
            root: root.into(),
            inodes: inodes.into(),
            build_time: time.seconds.cast_unsigned().into(),
            build_time_nanoseconds: time.nanoseconds.into(),
            blocks: blocks.into(),
            meta_block: 0.into(),
            xattr_block: xattr_block.into(),
            uuid,
            volume_name: [0; 16],
            feature_incompat: 0.into(),
            reserved: [0; 44],
        }
    }

    /// Returns block 0: the superblock with its checksum, and zeros around it.
    pub(super) fn block(mut self) -> Vec<u8> {
        let mut covered = self.as_bytes().to_vec();
        covered.resize(BLOCK as usize - SUPER_OFFSET, 0);
        self.checksum = (!crc32c::crc32c(&covered)).into();
        let mut block = vec![0; SUPER_OFFSET];
        block.extend_from_slice(self.as_bytes());
        block.resize(BLOCK as usize, 0);
        block
    }

    /// Returns the length of the image whose block 0 this is; `None` if magic, checksum or the rest of the block differ
    /// from what [`Self::block`] writes.
    pub(super) fn described_length(block: &[u8]) -> Option<u64> {
        let (found, _) = Self::read_from_prefix(block.get(SUPER_OFFSET..)?).ok()?;
        let unsealed = Self { checksum: 0.into(), ..found };
        (found.magic.get() == MAGIC && unsealed.block() == block).then(|| u64::from(found.blocks.get()) * BLOCK)
    }
}

/// Where the content of an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In whole blocks.
    Plain = 0,
    /// In whole blocks, except for the rest, which is directly after the inode and its attributes, within one block.
    Inline = 2,
}

/// An extended inode: 64 bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    /// Bit 0: extended; bits 1 to 3: the [`DataLayout`].
    pub(super) format: U16,
    /// 0 without extended attributes, otherwise 1 + (their bytes after the header) / 4.
    pub(super) xattr_count: U16,
    pub(super) mode: U16,
    pub(super) reserved: U16,
    pub(super) size: U64,
    /// The first block of content, or the device number.
    pub(super) place: U32,
    /// An inode number for programs that only support 32 bits.
    pub(super) short_number: U32,
    pub(super) uid: U32,
    pub(super) gid: U32,
    pub(super) mtime: I64,
    pub(super) mtime_nanoseconds: U32,
    pub(super) nlink: U32,
    pub(super) reserved2: [u8; 16],
}

impl Inode {
    /// Returns the `format` field of an extended inode.
    pub(super) fn format(layout: DataLayout) -> U16 {
        (1 | (layout as u16) << 1).into()
    }
}

/// A compact inode: 32 bytes. Its time is that of the superblock.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct CompactInode {
    /// Bit 0: 0; bits 1 to 3: the [`DataLayout`].
    pub(super) format: U16,
    pub(super) xattr_count: U16,
    pub(super) mode: U16,
    pub(super) nlink: U16,
    pub(super) size: U32,
    pub(super) reserved: U32,
    pub(super) place: U32,
    pub(super) short_number: U32,
    pub(super) uid: U16,
    pub(super) gid: U16,
    pub(super) reserved2: U32,
}

impl CompactInode {
    /// Returns the `format` field of a compact inode.
    pub(super) fn format(layout: DataLayout) -> U16 {
        ((layout as u16) << 1).into()
    }
}

const _: () = assert!(size_of::<Inode>() as u64 == INODE && size_of::<CompactInode>() as u64 == COMPACT_INODE);

/// What an inode's extended attributes begin with: 12 bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct XattrHeader {
    /// Unused without a feature that is not set.
    filter: U32,
    /// How many places of shared attributes follow.
    shared: u8,
    reserved: [u8; 7],
}

impl XattrHeader {
    /// Creates the header of an inode with this many shared attributes.
    pub(super) fn new(shared: u8) -> Self {
        Self { filter: 0.into(), shared, reserved: [0; 7] }
    }
}

const _: () = assert!(size_of::<XattrHeader>() == XATTR_HEADER);

/// A directory entry: 12 bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Dirent {
    pub(super) number: U64,
    /// Where the name begins in the block.
    pub(super) name: U16,
    /// The number that [`file_type`] returns.
    pub(super) kind: u8,
    pub(super) reserved: u8,
}

/// Returns the number of a type in directory entries.
pub(super) const fn file_type(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => 1,
        Kind::Directory => 2,
        Kind::CharDevice => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink => 7,
    }
}
