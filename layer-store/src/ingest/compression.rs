//! Detects compression by the first bytes of a file, regardless of its media type or name, and decompresses it.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::IngestError;

/// How many bytes are read from a source at once.
const BUFFER: usize = 256 << 10;

/// How many bytes are needed to detect the compression.
pub(super) const MAGIC: usize = 10;

/// The memory that decompressing xz may take, in KiB: a dictionary of 128 MiB, twice that of `xz -9`, plus overhead.
const XZ_MEMORY: u32 = 130 << 10;

/// A source whose first bytes were already read and are put back in front.
pub(crate) type Peeked<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The compression of a file, according to its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    Xz,
    Bzip2,
    /// An unsupported compression, detected only so that the error can name it.
    Unread(&'static str),
}

/// The magic numbers of compressed files.
const MAGICS: [(&[u8], Compression); 7] = [
    (b"\x1f\x8b", Compression::Gzip),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x04\x22\x4d\x18", Compression::Unread("lz4")),
    (b"LZIP\x01", Compression::Unread("lzip")),
    (b"PK\x03\x04", Compression::Unread("zip")),
    (b"\x1f\x9d", Compression::Unread("compress")),
];

impl Compression {
    /// Detects the compression from the first 10 bytes.
    pub(crate) fn of(start: &[u8]) -> Self {
        // A skippable frame, with which seekable and chunked zstd may begin.
        if matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
            return Self::Zstd;
        }
        // A tar may begin with a file whose name begins like this, so the first block or the end must follow the level.
        if let [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] = start
            && (rest.starts_with(b"1AY&SY") || rest.starts_with(b"\x17\x72\x45\x38\x50\x90"))
        {
            return Self::Bzip2;
        }
        let found = MAGICS.iter().find(|(magic, _)| start.starts_with(magic));
        found.map_or(Self::Plain, |(_, compression)| *compression)
    }
}

/// Decompresses a tar.
pub(crate) enum Decoder<B: BufRead> {
    Plain(B),
    Gzip(Box<MultiGzDecoder<B>>),
    Zstd(zstd::stream::read::Decoder<'static, B>),
    Xz(Box<XzReader<B>>),
    Bzip2(Box<MultiBzDecoder<B>>),
}

impl<R: Read> Decoder<Peeked<R>> {
    /// Decompresses a source, whose first bytes tell how it is compressed.
    pub(crate) fn new(mut source: R) -> Result<Self, IngestError> {
        let mut start = Vec::new();
        source.by_ref().take(MAGIC as u64).read_to_end(&mut start).map_err(IngestError::Source)?;
        let compression = Compression::of(&start);
        Self::over(BufReader::with_capacity(BUFFER, Cursor::new(start).chain(source)), compression)
    }

    /// Returns the source that the decoder reads from.
    pub(crate) fn peeked(&mut self) -> &R {
        self.source().get_ref().get_ref().1
    }
}

impl<B: BufRead> Decoder<B> {
    /// Decompresses a source that is compressed in this way.
    pub(super) fn over(source: B, compression: Compression) -> Result<Self, IngestError> {
        Ok(match compression {
            Compression::Plain => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => {
                Self::Zstd(zstd::stream::read::Decoder::with_buffer(source).map_err(IngestError::Source)?)
            }
            Compression::Xz => Self::Xz(Box::new(XzReader::new_mem_limit(source, true, XZ_MEMORY))),
            Compression::Bzip2 => Self::Bzip2(Box::new(MultiBzDecoder::new(source))),
            Compression::Unread(name) => return Err(IngestError::Compression(name)),
        })
    }

    /// Returns the source with its buffer.
    pub(super) fn source(&mut self) -> &mut B {
        match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
            Self::Xz(decoder) => decoder.inner_mut(),
            Self::Bzip2(decoder) => decoder.get_mut(),
        }
    }

    /// Reads what follows the last compressed frame, because it is part of the digest of the transferred bytes.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let source = self.source();
        loop {
            let length = match source.fill_buf() {
                Ok(bytes) => bytes.len(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if length == 0 {
                return Ok(());
            }
            source.consume(length);
        }
    }
}

impl<B: BufRead> Read for Decoder<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::Bzip2(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_that_begins_with_the_name_of_a_compression_is_a_tar() {
        for start in ["BZhello.txt", "BZh9.txt", "LZIP.txt", "PK.txt", "7zXZ"] {
            assert_eq!(Compression::of(start.as_bytes()), Compression::Plain, "{start}");
        }
        assert_eq!(Compression::of(b"BZh91AY&SY"), Compression::Bzip2);
        assert_eq!(Compression::of(b"PK\x03\x04"), Compression::Unread("zip"));
    }

    #[test]
    fn xz_that_takes_much_memory_is_refused_before_it_takes_it() {
        // The header of a stream and of a block with a dictionary of 4 GiB - 1.
        let mut stream = b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36".to_vec();
        stream.extend([0x02, 0x00, 0x21, 0x01, 0x28, 0, 0, 0]);
        let mut checksum = flate2::Crc::new();
        checksum.update(&stream[12..20]);
        stream.extend(checksum.sum().to_le_bytes());
        let mut decoder = Decoder::new(stream.as_slice()).unwrap_or_else(|e| panic!("{e}"));
        let error = decoder.read(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
    }
}
