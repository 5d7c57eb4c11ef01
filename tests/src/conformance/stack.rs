//! A stack of layers as a case describes it: what each entry means, and how it is written to a tar.

use sha2::{Digest as _, Sha256};

/// The modification time of an entry that names none: 2001-09-09 01:46:40 UTC, so that a lost time is noticed.
pub const DEFAULT_MTIME: Mtime = Mtime { seconds: 1_000_000_000, nanoseconds: 0 };

/// Several layers, the lowest first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Stack {
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// One layer: its entries in the order of the tar, and the frame around them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// The entries in the order of the tar.
    pub entries: Vec<Entry>,
    /// Compression, end blocks and trailing bytes.
    pub frame: Frame,
}

/// What surrounds the entries of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How the tar is packed.
    pub packing: Packing,
    /// How many gzip members or zstd frames the tar is cut into, at least 1.
    pub members: usize,
    /// How many blocks of 512 zero bytes are at the end. POSIX requires two.
    pub end_blocks: usize,
    /// Bytes after the end blocks.
    pub trailing: Vec<u8>,
    /// How many bytes are cut off the end of the tar, for layers that are broken on purpose.
    pub cut: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Self { packing: Packing::Plain, members: 1, end_blocks: 2, trailing: Vec::new(), cut: 0 }
    }
}

/// How a layer's tar is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `application/vnd.oci.image.layer.v1.tar`
    Plain,
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    Gzip,
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    Zstd,
}

/// One tar entry: what it means, and in [`Tape`] how it is written. What a case leaves out is `None`.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path exactly as the tar has it.
    pub path: Vec<u8>,
    /// What is at that path.
    pub node: Node,
    /// Permission bits, `0` to `0o7777`.
    pub mode: Option<u32>,
    /// Owner. The type is wider than that of an owner, so a case can have one that must be refused.
    pub uid: Option<u64>,
    /// Group.
    pub gid: Option<u64>,
    /// Modification time.
    pub mtime: Option<Mtime>,
    /// Extended attributes, in the order of the tar.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How it is written.
    pub tape: Tape,
}

/// A modification time as a tar can store it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Whole seconds since 1970, rounded towards the past.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What an entry creates at its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file. A whiteout is one with a special name.
    File(Content),
    /// Another name of the file at this path of the image.
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device, major and minor number.
    CharDevice(u32, u32),
    /// A block device, major and minor number.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
    /// A PAX global header, which creates nothing.
    Global,
    /// A header block and body that the case gives, which create nothing.
    Junk(Content),
}

/// How an entry is written. The default is ustar with PAX records for what does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tape {
    /// The dialect.
    pub dialect: Dialect,
    /// Header fields whose bytes are set after everything else is filled in: name, bytes.
    pub header: Vec<(Vec<u8>, Vec<u8>)>,
    /// PAX records written after those that the entry needs: keyword, value.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// The keyword under which extended attributes are written.
    pub xattr_style: XattrStyle,
    /// How the map of a sparse file is written.
    pub sparse: SparseFormat,
}

/// The dialect of tar that an entry is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// POSIX.1-1988, with PAX records only for what does not fit.
    #[default]
    Ustar,
    /// POSIX.1-2001 with every attribute in a PAX record.
    Pax,
    /// GNU: `L` and `K` entries for long names, base-256 for large numbers.
    Gnu,
    /// Before POSIX: no magic, a directory is a name that ends in a slash.
    V7,
}

/// The keyword under which extended attributes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrStyle {
    /// `SCHILY.xattr.NAME=VALUE`, raw bytes.
    #[default]
    Schily,
    /// `LIBARCHIVE.xattr.NAME=VALUE`, the name URL-encoded and the value in base64.
    Libarchive,
}

/// How the map of a sparse file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SparseFormat {
    /// Type `S` and a map in the header.
    #[default]
    Gnu,
    /// PAX `GNU.sparse.offset` and `GNU.sparse.numbytes`, repeated.
    Pax00,
    /// PAX `GNU.sparse.map`.
    Pax01,
    /// The map before the content.
    Pax10,
}

/// The content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Literal(Vec<u8>),
    /// This many bytes of [`pattern`].
    Fill(u64),
    /// Mostly holes.
    Sparse {
        /// The length in bytes, including holes.
        size: u64,
        /// The ranges with bytes of [`pattern`]: offset and length, ascending.
        extents: Vec<(u64, u64)>,
    },
}

/// Returns the byte at `offset` of generated content, which has no zeros and no short period.
#[must_use]
pub const fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8 | 1
}

/// Content up to this size is compared completely. Of larger content, this many bytes at each end are compared.
const COMPARED_WHOLE: u64 = 16 << 20;

impl Content {
    /// The length in bytes, including holes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Literal(bytes) => bytes.len() as u64,
            Self::Fill(size) | Self::Sparse { size, .. } => *size,
        }
    }

    /// The bytes from `offset`, as many as there are up to `buffer.len()`.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX));
        for (at, byte) in (offset..).zip(&mut buffer[..count]) {
            *byte = match self {
                Self::Literal(bytes) => bytes[at as usize],
                Self::Fill(_) => pattern(at),
                Self::Sparse { extents, .. } => {
                    let in_data = extents.iter().any(|&(start, length)| (start..start + length).contains(&at));
                    if in_data { pattern(at) } else { 0 }
                }
            };
        }
        count
    }

    /// Returns all bytes, for content that fits into memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size()).expect("content of a case that is read whole is small")];
        self.read_at(0, &mut bytes);
        bytes
    }
}

/// Returns what a dump shows for content: a digest of all of it, or of the two ends of a very large file.
///
/// `read_at` fills the buffer from an offset and returns how many bytes it read.
pub fn content_mark<E>(size: u64, mut read_at: impl FnMut(u64, &mut [u8]) -> Result<usize, E>) -> Result<String, E> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    // One byte more than expected, so that a longer file is noticed.
    let ranges = if size <= COMPARED_WHOLE {
        vec![(0, size + 1)]
    } else {
        vec![(0, COMPARED_WHOLE / 4), (size - COMPARED_WHOLE / 4, size + 1)]
    };
    let label = if ranges.len() == 1 { "sha256" } else { "ends" };
    for (mut at, end) in ranges {
        while at < end {
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let count = read_at(at, &mut buffer[..wanted])?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            at += count as u64;
        }
    }
    let hex: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{label}:{hex}"))
}
