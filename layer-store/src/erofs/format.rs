//! The records of an EROFS image (`fs/erofs/erofs_fs.h` of Linux), as far as uncompressed images need them.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Kind;

/// Bytes of a block: the one size that every kernel with EROFS reads (others came with Linux 6.4).
pub(super) const BLOCK: u64 = 4096;
/// Where the superblock begins.
pub(super) const SUPER_OFFSET: usize = 1024;
/// The unit in which inodes are placed; an inode's number is its offset in the image in these units.
pub(super) const SLOT: u64 = 32;
/// Bytes of an extended inode.
pub(super) const INODE: u64 = 64;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// Bytes in front of an inode's extended attributes.
pub(super) const XATTR_HEADER: usize = 12;

/// `feature_compat`: `checksum` is there, and inodes hold the time of modification.
const FEATURES: u32 = 0x1 | 0x2;
const MAGIC: u32 = 0xe0f5_e1e2;

/// The superblock: 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    magic: U32,
    /// CRC-32C (without the last inversion) from here to the end of the block, this field as 0.
    checksum: U32,
    feature_compat: U32,
    /// Logarithm of the block size.
    block_bits: u8,
    extra_slots: u8,
    root: U16,
    inodes: U64,
    build_time: U64,
    build_time_nanoseconds: U32,
    blocks: U32,
    /// Where inode numbers count from.
    meta_block: U32,
    xattr_block: U32,
    uuid: [u8; 16],
    volume_name: [u8; 16],
    feature_incompat: U32,
    reserved: [u8; 44],
}

impl Superblock {
    /// One of an image with these counts, whose checksum is still to be set.
    pub(super) fn new(root: u16, inodes: u64, blocks: u32, uuid: [u8; 16]) -> Self {
        Self {
            magic: MAGIC.into(),
            checksum: 0.into(),
            feature_compat: FEATURES.into(),
            block_bits: 12,
            extra_slots: 0,
            root: root.into(),
            inodes: inodes.into(),
            // The same base has the same bytes whenever it is written.
            build_time: 0.into(),
            build_time_nanoseconds: 0.into(),
            blocks: blocks.into(),
            meta_block: 0.into(),
            xattr_block: 0.into(),
            uuid,
            volume_name: [0; 16],
            feature_incompat: 0.into(),
            reserved: [0; 44],
        }
    }

    /// Block 0: the superblock with its checksum, and zeros around it.
    pub(super) fn block(mut self) -> Vec<u8> {
        let mut covered = self.as_bytes().to_vec();
        covered.resize(BLOCK as usize - SUPER_OFFSET, 0);
        self.checksum = (!crc32c::crc32c(&covered)).into();
        let mut block = vec![0; SUPER_OFFSET];
        block.extend_from_slice(self.as_bytes());
        block.resize(BLOCK as usize, 0);
        block
    }

    /// The length of the image whose block 0 this is; `None` where magic or checksum are not as written here.
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
    /// In whole blocks, and the rest directly after the inode and its attributes, within one block.
    Inline = 2,
}

/// An extended inode: 64 bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    /// Bit 0: extended; bits 1 to 3: the [`DataLayout`].
    pub(super) format: U16,
    /// 0 without extended attributes, else 1 + their bytes after the header / 4.
    pub(super) xattr_count: U16,
    pub(super) mode: U16,
    pub(super) reserved: U16,
    pub(super) size: U64,
    /// The first block of content, or the device number.
    pub(super) place: U32,
    /// A number for programs that know 32 bits only.
    pub(super) short_number: U32,
    pub(super) uid: U32,
    pub(super) gid: U32,
    pub(super) mtime: I64,
    pub(super) mtime_nanoseconds: U32,
    pub(super) nlink: U32,
    pub(super) reserved2: [u8; 16],
}

impl Inode {
    /// The `format` of an extended inode.
    pub(super) fn format(layout: DataLayout) -> U16 {
        (1 | (layout as u16) << 1).into()
    }
}

/// A directory entry: 12 bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Dirent {
    pub(super) number: U64,
    /// Where the name begins in the block.
    pub(super) name: U16,
    /// As [`file_type`] says.
    pub(super) kind: u8,
    pub(super) reserved: u8,
}

/// The number of a type in directory entries.
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
