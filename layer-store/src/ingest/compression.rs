//! Tells and undoes the compression of a layer by its first bytes, whatever its media type claims.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::IngestError;

/// Bytes that are read from a source at once.
const BUFFER: usize = 256 << 10;

/// Bytes that tell one compression from another.
const MAGIC: u64 = 6;

/// A source, its first bytes already looked at.
type Peeked<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// What a layer's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Formats that are told apart only to be refused by their name.
const REFUSED: [(&[u8], &str); 4] =
    [(b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x04\x22\x4d\x18", "lz4"), (b"LZIP", "lzip")];

fn tell(start: &[u8]) -> Result<Compression, IngestError> {
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Compression::Gzip);
    }
    // RFC 8878: a frame, or a skippable frame in front of one.
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || matches!(start, &[0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
        return Ok(Compression::Zstd);
    }
    match REFUSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, name)) => Err(IngestError::Compression(name)),
        None => Ok(Compression::Plain),
    }
}

/// A layer's tar, read from its compressed form.
pub(super) enum Decoder<R: Read> {
    Plain(Peeked<R>),
    Gzip(Box<MultiGzDecoder<Peeked<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Peeked<R>>),
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(mut source: R) -> Result<Self, IngestError> {
        let mut start = Vec::new();
        source.by_ref().take(MAGIC).read_to_end(&mut start).map_err(IngestError::Source)?;
        let compression = tell(&start)?;
        let source = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(source));
        Ok(match compression {
            Compression::Plain => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => {
                Self::Zstd(zstd::stream::read::Decoder::with_buffer(source).map_err(IngestError::Source)?)
            }
        })
    }

    fn peeked(&mut self) -> &mut Peeked<R> {
        match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }

    /// The source below the decoder.
    pub(super) fn source(&mut self) -> &R {
        self.peeked().get_ref().get_ref().1
    }

    /// Reads what follows the last compressed frame: it belongs to the digest of what came.
    pub(super) fn drain(&mut self) -> io::Result<u64> {
        io::copy(self.peeked(), &mut io::sink())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}
