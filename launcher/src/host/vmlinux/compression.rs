//! The compressions of kernels (`CONFIG_KERNEL_GZIP` and the like).
//!
//! The last 4 bytes of a compressed kernel are its uncompressed size. In gzip they are part of the format, and after the
//! others the kernel's build adds them (`size_append` in `scripts/Makefile.lib`).

use std::io::{self, Read};

use super::image::number;

/// The largest kernel in bytes. One of Debian's has about 40 MiB.
const LARGEST: u64 = 1 << 30;

/// The memory that decompression may take, in KiB: a dictionary of 128 MiB, plus overhead. The build of a kernel uses at
/// most 128 MiB.
const MEMORY: u32 = 140 << 10;

/// How large a block of lz4's old format is before its compression, in bytes. Only the last one is smaller.
const LZ4_BLOCK: usize = 8 << 20;
/// The first bytes of that format, the only one that the kernel's build uses.
const LZ4_MAGIC: &[u8] = b"\x02\x21\x4c\x18";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Xz,
    Lzma,
    Bzip2,
    Lz4,
    Zstd,
}

impl Compression {
    /// Detects the compression by the first bytes.
    fn of(payload: &[u8]) -> Result<Self, String> {
        match payload {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [0x5d, 0, 0, ..] => Ok(Self::Lzma),
            [b'B', b'Z', b'h', ..] => Ok(Self::Bzip2),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0x89, b'L', b'Z', b'O', ..] => Err("it is compressed with lzo, which lamina cannot unpack".to_owned()),
            _ if payload.starts_with(LZ4_MAGIC) => Ok(Self::Lz4),
            _ => Err("it is compressed in a way that lamina does not know".to_owned()),
        }
    }

    fn unpack(self, payload: &[u8], packed: &[u8], size: u64) -> io::Result<Vec<u8>> {
        match self {
            // It ends with its own size, so all of the payload belongs to it.
            Self::Gzip => read(flate2::bufread::GzDecoder::new(payload), size),
            Self::Xz => read(lzma_rust2::XzReader::new_mem_limit(packed, false, MEMORY), size),
            Self::Lzma => read(lzma_rust2::LzmaReader::new_mem_limit(packed, MEMORY, None)?, size),
            Self::Bzip2 => read(bzip2::bufread::BzDecoder::new(packed), size),
            Self::Lz4 => lz4(packed.get(LZ4_MAGIC.len()..).unwrap_or_default(), size),
            Self::Zstd => read(zstd::stream::read::Decoder::with_buffer(packed)?, size),
        }
    }
}

/// Returns the ELF file that is compressed in `payload`.
pub(super) fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
    if payload.starts_with(b"\x7fELF") {
        return Ok(payload.to_owned());
    }
    let compression = Compression::of(payload)?;
    let damaged = "the kernel in it is damaged";
    let end = payload.len().saturating_sub(4);
    let size = number(payload, end, 4).filter(|size| (1..=LARGEST).contains(size)).ok_or(damaged)?;
    match compression.unpack(payload, &payload[..end], size) {
        Ok(unpacked) if unpacked.len() as u64 == size => Ok(unpacked),
        Ok(unpacked) if unpacked.len() as u64 > size => Err(format!("{damaged}: it has more than {size} bytes")),
        Ok(unpacked) => Err(format!("{damaged}: it has {} bytes instead of {size}", unpacked.len())),
        Err(error) => Err(format!("{damaged}: {error}")),
    }
}

/// Reads at most one byte more than `size`: then it is too long, and otherwise its checksum has been compared.
fn read(from: impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut unpacked = room_for(size)?;
    from.take(size + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Unpacks the blocks of lz4's old format: the length of each, then its content. There are no checksums.
fn lz4(mut blocks: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let mut unpacked = room_for(size)?;
    let mut block = vec![0; LZ4_BLOCK];
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "an lz4 block is cut off");
    while !blocks.is_empty() && unpacked.len() as u64 <= size {
        let (length, rest) = blocks.split_at_checked(4).ok_or_else(damaged)?;
        blocks = rest;
        // Another such file may follow.
        if length == LZ4_MAGIC {
            continue;
        }
        let length = number(length, 0, 4).and_then(|length| usize::try_from(length).ok()).ok_or_else(damaged)?;
        let (packed, rest) = blocks.split_at_checked(length).ok_or_else(damaged)?;
        blocks = rest;
        let count = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        unpacked.extend_from_slice(&block[..count]);
    }
    Ok(unpacked)
}

fn room_for(size: u64) -> io::Result<Vec<u8>> {
    let mut room = Vec::new();
    let size = usize::try_from(size + 1).map_err(|_| io::ErrorKind::OutOfMemory)?;
    room.try_reserve_exact(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(room)
}
