//! The cached part of a base's block device: its metadata, and where the content of each block is.
//!
//! ```text
//! file       = section file (see `section_file`), magic "LAMBLOCK", version VERSION, with these sections:
//!   0 meta      one MetaRecord
//!   1 extents   ExtentRecord *    in the order of the device, not overlapping, all after the metadata
//!   2 metadata  the first blocks of the device: whole blocks
//! ```
//!
//! What neither the metadata nor an extent covers is zeros.

use std::io::{Seek, Write};
use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ErofsError;
use super::format::{BLOCK, Superblock};
use super::metadata::MetadataWriter;
use super::plan::Plan;
use crate::mapped::IndexBytes;
use crate::section_file::{Format, SectionWriter, Sections, Unusable, require};
use crate::{DiffId, Digest, Observer, View};

/// The current format. The number in the file's name, which is that of the image writer, changes with it.
pub(crate) const FORMAT: Format = Format { magic: *b"LAMBLOCK", version: 1 };

const META: usize = 0;
const EXTENTS: usize = 1;
const METADATA: usize = 2;
const SECTIONS: usize = 3;

/// What the device shows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MetaRecord {
    /// Hash of the DiffIDs of the view's layers.
    layers: [u8; 32],
    /// Bytes of the device.
    length: U64,
}

/// A range of the device whose bytes are in the tar of a layer: 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExtentRecord {
    device_offset: U64,
    tar_offset: U64,
    /// More than 0.
    length: U32,
    /// The layer, counted from the bottom.
    layer: U32,
}

/// A range of the device whose bytes are in the tar of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) device_offset: u64,
    pub(super) tar_offset: u64,
    pub(super) length: u64,
    /// The layer, counted from the bottom.
    pub(super) layer: u32,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.device_offset.saturating_add(self.length)
    }

    pub(super) fn tar_end(&self) -> u64 {
        self.tar_offset.saturating_add(self.length)
    }

    /// Returns the part of it that is in a range of the device which overlaps it.
    fn within(&self, range: &Range<u64>) -> Self {
        let (start, end) = (self.device_offset.max(range.start), self.end().min(range.end));
        Self {
            device_offset: start,
            tar_offset: self.tar_offset + (start - self.device_offset),
            length: end.saturating_sub(start),
            layer: self.layer,
        }
    }
}

impl ExtentRecord {
    fn extent(&self) -> Extent {
        Extent {
            device_offset: self.device_offset.get(),
            tar_offset: self.tar_offset.get(),
            length: self.length.get().into(),
            layer: self.layer.get(),
        }
    }
}

/// The map of a device, opened and validated.
#[derive(Debug)]
pub(crate) struct BlockMap {
    bytes: IndexBytes,
    sections: Sections<SECTIONS>,
}

impl BlockMap {
    /// Opens a map, validates all of it in one pass, and checks that it is that of a view.
    pub(crate) fn open(bytes: IndexBytes, view: &View) -> Result<Self, Unusable> {
        let map = Self::parse(bytes)?;
        require(map.meta().is_some_and(|meta| meta.layers == *layers_hash(view).as_bytes()), "list of layers")?;
        let layers = u32::try_from(view.layers().len()).unwrap_or(u32::MAX);
        require(map.records().iter().all(|record| record.layer.get() < layers), "extent table")?;
        Ok(map)
    }

    /// Opens a map, whatever view it is of.
    pub(crate) fn parse(bytes: IndexBytes) -> Result<Self, Unusable> {
        let sections = Sections::open(&bytes, FORMAT)?;
        sections.check_records::<MetaRecord>(&bytes, META, "meta record")?;
        sections.check_records::<ExtentRecord>(&bytes, EXTENTS, "extent table")?;
        let map = Self { bytes, sections };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), Unusable> {
        let superblock = self.metadata().get(..usize::try_from(BLOCK).unwrap_or_default());
        let described = superblock.and_then(Superblock::described_length);
        require(described.is_some_and(|length| length == self.length()), "superblock")?;
        let metadata = self.metadata().len() as u64;
        require(metadata.is_multiple_of(BLOCK) && metadata <= self.length(), "metadata")?;
        let mut free = metadata;
        for record in self.records() {
            let end = record.device_offset.get().checked_add(record.length.get().into());
            let end = end.filter(|&end| end <= self.length() && record.length.get() > 0);
            require(record.device_offset.get() >= free && end.is_some(), "extent table")?;
            let tar_end = record.tar_offset.get().checked_add(record.length.get().into());
            require(tar_end.is_some_and(|end| end <= i64::MAX.cast_unsigned()), "extent table")?;
            free = end.unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn meta(&self) -> Option<&MetaRecord> {
        self.sections.records(&self.bytes, META).first()
    }

    fn records(&self) -> &[ExtentRecord] {
        self.sections.records(&self.bytes, EXTENTS)
    }

    /// Returns the length of the device in bytes.
    pub(super) fn length(&self) -> u64 {
        self.meta().map(|meta| meta.length.get()).unwrap_or_default()
    }

    /// Returns the first blocks of the device.
    pub(super) fn metadata(&self) -> &[u8] {
        self.sections.bytes(&self.bytes, METADATA)
    }

    /// Returns the parts of extents that are in a range of the device, in order.
    pub(super) fn extents(&self, range: Range<u64>) -> impl Iterator<Item = Extent> {
        let records = self.records();
        let first = records.partition_point(|record| record.extent().end() <= range.start);
        let rest = records.get(first..).unwrap_or_default().iter().map(ExtentRecord::extent);
        rest.take_while({
            let end = range.end;
            move |extent| extent.device_offset < end
        })
        .map(move |extent| extent.within(&range))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl BlockMap {
    /// Asks for the extents of all of the device, and of each part that begins with an extent.
    pub(crate) fn check_extents(&self) {
        let mut free = self.metadata().len() as u64;
        for extent in self.extents(0..u64::MAX) {
            assert!(extent.device_offset >= free && extent.length > 0 && extent.end() <= self.length(), "{extent:?}");
            assert_eq!(self.extents(extent.device_offset..extent.end()).collect::<Vec<_>>(), [extent]);
            free = extent.end();
        }
    }
}

/// Returns a hash of which layers a view has.
fn layers_hash(view: &View) -> Digest {
    let bytes: Vec<u8> = view.layers().flat_map(|DiffId(digest)| *digest.as_bytes()).collect();
    Digest::of(&bytes)
}

/// The longest extent that a record describes; a longer one has several records.
const LENGTH_MAX: u64 = 1 << 30;

/// Returns the records of all content of a view.
fn records(view: &View, plan: &Plan) -> Result<Vec<ExtentRecord>, ErofsError> {
    let mut records = Vec::new();
    for place in plan.places.iter().filter(|place| place.is_file && place.block > 0) {
        let start = u64::from(place.block) * BLOCK;
        view.each_run_of(place.ino, |layer, run| {
            let mut done = 0;
            while done < run.length {
                let length = (run.length - done).min(LENGTH_MAX);
                records.push(ExtentRecord {
                    device_offset: (start + run.file_offset + done).into(),
                    tar_offset: (run.blob_offset + done).into(),
                    length: u32::try_from(length).unwrap_or_default().into(),
                    layer: layer.into(),
                });
                done += length;
            }
        })?;
    }
    Ok(records)
}

/// Writes the map of a view.
pub(crate) fn write<W: Write + Seek>(
    view: &View,
    uuid: [u8; 16],
    out: W,
    observer: &dyn Observer,
) -> Result<W, ErofsError> {
    let plan = Plan::of(view, observer)?;
    let records = records(view, &plan)?;
    let lengths = [size_of::<MetaRecord>() as u64, size_of_val(records.as_slice()) as u64, plan.metadata_bytes()];
    let mut sections = SectionWriter::new(out, FORMAT, &lengths).map_err(ErofsError::Write)?;
    let meta = MetaRecord { layers: *layers_hash(view).as_bytes(), length: plan.bytes().into() };
    for section in [meta.as_bytes(), records.as_bytes()] {
        sections.put(section).and_then(|()| sections.align()).map_err(ErofsError::Write)?;
    }
    MetadataWriter { view, plan: &plan, observer }.write(uuid, &mut Section(&mut sections))?;
    sections.align().and_then(|()| sections.finish()).map_err(ErofsError::Write)
}

/// The current section of a file, as something to write to.
struct Section<'a, W>(&'a mut SectionWriter<W>);

impl<W: Write + Seek> Write for Section<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.put(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    const LENGTH: u64 = 8 * BLOCK;

    fn parsed(extents: &[(u64, u64, u32)], length: u64) -> Result<BlockMap, Unusable> {
        let blocks = u32::try_from(LENGTH / BLOCK).expect("a few blocks");
        let metadata = Superblock::new(0, 0, blocks, 0, [0; 16], Timestamp::default()).block();
        let record = |&(device, tar, length): &(u64, u64, u32)| ExtentRecord {
            device_offset: device.into(),
            tar_offset: tar.into(),
            length: length.into(),
            layer: 0.into(),
        };
        let records: Vec<_> = extents.iter().map(record).collect();
        let meta = MetaRecord { layers: [0; 32], length: length.into() };
        let sections = [meta.as_bytes(), records.as_bytes(), &metadata];
        let lengths = sections.map(|section| section.len() as u64);
        let mut writer = SectionWriter::new(std::io::Cursor::new(Vec::new()), FORMAT, &lengths).expect("memory");
        for section in sections {
            writer.put(section).expect("memory");
            writer.align().expect("memory");
        }
        BlockMap::parse(IndexBytes::Owned(writer.finish().expect("memory").into_inner()))
    }

    #[test]
    fn extents_are_cut_to_what_is_asked_for() {
        let map = parsed(&[(4096, 512, 100), (8192, 10_000, 8192)], LENGTH).expect("a good map");
        let found = |range| map.extents(range).map(|extent| (extent.device_offset, extent.tar_offset, extent.length));
        assert!(found(0..4096).eq([]));
        assert!(found(4096..8192).eq([(4096, 512, 100)]));
        assert!(found(4190..8300).eq([(4190, 606, 6), (8192, 10_000, 108)]));
        assert!(found(4196..8192).eq([]), "after the end of the file");
        assert!(found(12_288..LENGTH).eq([(12_288, 14_096, 4096)]));
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(parsed(&[], LENGTH).is_ok());
        assert!(parsed(&[], LENGTH + BLOCK).is_err(), "another length than the superblock's");
        assert!(parsed(&[(4096, 0, 0)], LENGTH).is_err(), "an empty extent");
        assert!(parsed(&[(4095, 0, 10)], LENGTH).is_err(), "in the metadata");
        assert!(parsed(&[(4096, 0, 100), (4195, 0, 10)], LENGTH).is_err(), "overlapping");
        assert!(parsed(&[(8192, 0, 100), (4096, 0, 10)], LENGTH).is_err(), "in another order");
        assert!(parsed(&[(LENGTH - 10, 0, 11)], LENGTH).is_err(), "past the end");
        assert!(parsed(&[(u64::MAX, 0, 11)], LENGTH).is_err(), "overflow");
        assert!(parsed(&[(4096, u64::MAX - 5, 11)], LENGTH).is_err(), "no such offset");
    }
}
