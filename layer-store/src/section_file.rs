//! The common file format of layer indexes, bases, sharing maps and tables of contents: a header, a table of sections
//! and a checksum.
//!
//! ```text
//! offset  size
//!      0     8  magic: which format this is
//!      8     4  version of that format
//!     12     4  number of sections, n
//!     16     8  length of the whole file in bytes
//!     24     8  XXH3-64 of everything after this field
//!     32  16 n  the sections: offset and length in bytes, 8 each
//!   then        the sections in the order of the table, each starting at a multiple of 8
//! ```
//!
//! All numbers are little-endian. Indexes, bases and tables of contents are caches: one that does not pass
//! [`Sections::open`] is rebuilt from the blobs, never repaired. A sharing map cannot be rebuilt: a layer whose map
//! does not pass is damaged.

use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// Why a file cannot be used. If it is a cache, the process that opened it rebuilds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it has another format or version")]
    OtherFormat,
    #[error("its length is not what its header says")]
    Length,
    #[error("its checksum does not match")]
    Checksum,
    #[error("its {0} is inconsistent")]
    Inconsistent(&'static str),
}

/// Returns an error unless `holds`; `what` names the inconsistent part of the file.
pub(crate) fn require(holds: bool, what: &'static str) -> Result<(), Unusable> {
    if holds { Ok(()) } else { Err(Unusable::Inconsistent(what)) }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 8],
    version: U32,
    section_count: U32,
    file_length: U64,
    checksum: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SectionRecord {
    offset: U64,
    length: U64,
}

const HEADER_LENGTH: usize = size_of::<FileHeader>();

/// Reads the header, and checks format and length.
fn header(bytes: &[u8], format: Format) -> Result<FileHeader, Unusable> {
    let (header, _) = FileHeader::read_from_prefix(bytes).map_err(|_| Unusable::Length)?;
    if header.magic != format.magic || header.version.get() != format.version {
        return Err(Unusable::OtherFormat);
    }
    if header.file_length.get() == bytes.len() as u64 { Ok(header) } else { Err(Unusable::Length) }
}

/// The positions of the sections in an opened file, with validated bounds.
#[derive(Debug)]
pub(crate) struct Sections<const N: usize>([Range<usize>; N]);

impl<const N: usize> Sections<N> {
    /// Checks format, length, checksum and the bounds of all sections.
    pub(crate) fn open(bytes: &[u8], format: Format) -> Result<Self, Unusable> {
        let header = header(bytes, format)?;
        let body = bytes.get(HEADER_LENGTH..).unwrap_or_default();
        if header.checksum.get() != xxh3_64(body) {
            return Err(Unusable::Checksum);
        }
        Self::bounds(bytes, format)
    }

    /// Checks everything except the checksum, and reads only the start of the file. It is for files whose content is
    /// checked when it is used.
    pub(crate) fn bounds(bytes: &[u8], format: Format) -> Result<Self, Unusable> {
        let header = header(bytes, format)?;
        let body = bytes.get(HEADER_LENGTH..).unwrap_or_default();
        let wrong = Unusable::Inconsistent("section table");
        if header.section_count.get() as usize != N {
            return Err(wrong);
        }
        let table = body.get(..N * size_of::<SectionRecord>()).ok_or(wrong.clone())?;
        let table = <[SectionRecord]>::ref_from_bytes(table).map_err(|_| wrong.clone())?;
        let mut ranges = [const { 0..0 }; N];
        let mut end = HEADER_LENGTH + size_of_val(table);
        for (range, record) in ranges.iter_mut().zip(table) {
            let start = usize::try_from(record.offset.get()).map_err(|_| wrong.clone())?;
            let length = usize::try_from(record.length.get()).map_err(|_| wrong.clone())?;
            if start != end.next_multiple_of(8) {
                return Err(wrong);
            }
            end = start.checked_add(length).filter(|&end| end <= bytes.len()).ok_or(wrong.clone())?;
            *range = start..end;
        }
        if end.next_multiple_of(8) == bytes.len() { Ok(Self(ranges)) } else { Err(wrong) }
    }

    /// Returns the bytes of one section.
    pub(crate) fn bytes<'file>(&self, file: &'file [u8], section: usize) -> &'file [u8] {
        self.0.get(section).and_then(|range| file.get(range.clone())).unwrap_or_default()
    }

    /// Checks that a section consists of whole records of a fixed size; `wrong` names the table in the error.
    pub(crate) fn check_records<T>(&self, file: &[u8], section: usize, wrong: &'static str) -> Result<(), Unusable>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let records = <[T]>::ref_from_bytes(self.bytes(file, section));
        records.map(|_| ()).map_err(|_| Unusable::Inconsistent(wrong))
    }

    /// Returns one section as records; empty if [`Sections::check_records`] would fail for it.
    pub(crate) fn records<'file, T>(&self, file: &'file [u8], section: usize) -> &'file [T]
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        <[T]>::ref_from_bytes(self.bytes(file, section)).unwrap_or_default()
    }
}

/// Writes a file of sections whose lengths are known in advance.
pub(crate) struct SectionWriter<W> {
    out: W,
    format: Format,
    lengths: Vec<u64>,
    checksum: Box<Xxh3>,
    written: u64,
}

impl<W: Write + Seek> SectionWriter<W> {
    /// Starts a file with sections of these lengths in bytes.
    pub(crate) fn new(out: W, format: Format, lengths: &[u64]) -> io::Result<Self> {
        let mut writer = Self { out, format, lengths: lengths.to_vec(), checksum: Box::default(), written: 0 };
        writer.out.write_all(&[0; HEADER_LENGTH])?;
        writer.written = HEADER_LENGTH as u64;
        let mut offset = (HEADER_LENGTH + size_of_val(lengths) * 2) as u64;
        for &length in lengths {
            offset = offset.next_multiple_of(8);
            writer.put(SectionRecord { offset: offset.into(), length: length.into() }.as_bytes())?;
            offset += length;
        }
        writer.align()?;
        Ok(writer)
    }

    /// Appends bytes of the current section.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Ends the current section.
    pub(crate) fn align(&mut self) -> io::Result<()> {
        let padding = usize::try_from(self.written.wrapping_neg() % 8).unwrap_or_default();
        self.put([0; 8].get(..padding).unwrap_or_default())
    }

    /// Writes the header, and returns the file.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let header = FileHeader {
            magic: self.format.magic,
            version: self.format.version.into(),
            section_count: u32::try_from(self.lengths.len()).map_err(io::Error::other)?.into(),
            file_length: self.written.into(),
            checksum: self.checksum.digest().into(),
        };
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(header.as_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }
}
