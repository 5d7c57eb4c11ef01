//! The table of contents of a layer: the content in its file, by hash, to find equal content.
//!
//! ```text
//! file      = section file (see `section_file`), magic "LAMCONTS", version VERSION, with this section:
//!   0 contents   ContentRecord *    sorted by hash, then offset
//! ```
//!
//! It is a cache, and it is not validated when it is opened, because the bytes that it points to are compared anyway.

use std::io::{self, Cursor};

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::mapped::IndexBytes;
use crate::section_file::{Format, SectionWriter, Sections, Unusable};

/// The current format. A table of another version is ignored: its layer lends nothing until it is added again.
pub(crate) const FORMAT: Format = Format { magic: *b"LAMCONTS", version: 1 };

/// The stored content of one regular file: 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ContentRecord {
    /// XXH3-128 as in the layer's index.
    hash: [u8; 16],
    /// Where it begins in the tar.
    offset: U64,
    length: U64,
}

/// The stored content of one regular file. For a sparse file this is all of its runs, which are contiguous in a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Content {
    /// XXH3-128 as in the layer's index.
    pub(crate) hash: [u8; 16],
    /// Where it begins in the tar.
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A table of contents, opened but not validated.
#[derive(Debug)]
pub(crate) struct ContentTable {
    bytes: IndexBytes,
    sections: Sections<1>,
}

impl ContentTable {
    pub(crate) fn open(bytes: IndexBytes) -> Result<Self, Unusable> {
        let sections = Sections::bounds(&bytes, FORMAT)?;
        sections.check_records::<ContentRecord>(&bytes, 0, "content table")?;
        Ok(Self { bytes, sections })
    }

    fn records(&self) -> &[ContentRecord] {
        self.sections.records(&self.bytes, 0)
    }

    /// Returns, for each of `wanted` (which are sorted), the offset of the same content in this layer, if it has it.
    pub(crate) fn twins<'a>(&'a self, wanted: &'a [Content]) -> impl Iterator<Item = Option<u64>> + 'a {
        let mut rest = self.records();
        wanted.iter().map(move |content| {
            rest = rest.get(count_below(rest, &content.hash)..).unwrap_or_default();
            let same = rest.iter().take_while(|record| record.hash == content.hash);
            let mut same = same.filter(|record| record.length.get() == content.length);
            same.next().map(|record| record.offset.get())
        })
    }
}

/// Counts the records at the start that are below `hash`. Searches in growing steps, because the next one is usually
/// near.
fn count_below(records: &[ContentRecord], hash: &[u8; 16]) -> usize {
    let below = |at: usize| records.get(at).is_some_and(|record| record.hash < *hash);
    let mut end = 1;
    while below(end - 1) {
        end *= 2;
    }
    let start = end / 2;
    let near = records.get(start..end.min(records.len())).unwrap_or_default();
    start + near.partition_point(|record| record.hash < *hash)
}

/// Returns the bytes of a table. `contents` must be sorted.
pub(crate) fn write(contents: &[Content]) -> io::Result<Vec<u8>> {
    let length = size_of_val(contents) as u64;
    let mut writer = SectionWriter::new(Cursor::new(Vec::new()), FORMAT, &[length])?;
    for content in contents {
        let (offset, length) = (content.offset.into(), content.length.into());
        writer.put(ContentRecord { hash: content.hash, offset, length }.as_bytes())?;
    }
    writer.align()?;
    writer.finish().map(Cursor::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(hash: u8, offset: u64, length: u64) -> Content {
        Content { hash: [hash; 16], offset, length }
    }

    #[test]
    fn twins_have_the_same_hash_and_length() {
        let kept = [content(1, 10, 5), content(3, 20, 5), content(3, 30, 6), content(9, 40, 7)];
        let table = ContentTable::open(IndexBytes::Owned(write(&kept).expect("a table"))).expect("a table");
        let wanted = [
            content(0, 0, 5),
            content(1, 0, 5),
            content(1, 0, 6),
            content(3, 0, 6),
            content(3, 9, 5),
            content(8, 0, 1),
            content(9, 0, 7),
            content(9, 1, 7),
            content(10, 0, 7),
        ];
        let found: Vec<_> = table.twins(&wanted).collect();
        let expected = [None, Some(10), None, Some(30), Some(20), None, Some(40), Some(40), None];
        assert_eq!(found, expected);
    }

    #[test]
    fn any_table_is_searched_to_its_end() {
        // Records that are out of order: a wrong table finds nothing, or something that is then compared.
        let lie: Vec<_> = [7, 3, 9, 1, 200, 4].map(|hash| content(hash, 1, 1)).into();
        let table = ContentTable::open(IndexBytes::Owned(write(&lie).expect("a table"))).expect("a table");
        let wanted: Vec<_> = (0..=255).map(|hash| content(hash, 0, 1)).collect();
        assert_eq!(table.twins(&wanted).count(), 256);
        let empty = ContentTable::open(IndexBytes::Owned(write(&[]).expect("a table"))).expect("a table");
        assert!(empty.twins(&wanted).all(|twin| twin.is_none()));
    }
}
