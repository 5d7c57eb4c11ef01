//! The sharing map of a thin layer: which parts of its tar are not in its file, and where they are.
//!
//! ```text
//! file      = section file (see `section_file`), magic "LAMSHARE", version VERSION, with these sections:
//!   0 meta      one MetaRecord
//!   1 donors    32-byte DiffIDs   at most DONORS_MAX, each once
//!   2 runs      RunRecord *       in the order of the tar, not overlapping
//! ```

use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::mapped::IndexBytes;
use crate::section_file::{Format, SectionWriter, Sections, Unusable, require};
use crate::{DiffId, Digest};

/// The current format. A program that finds a newer one refuses the layer, because the map cannot be rebuilt.
pub(crate) const FORMAT: Format = Format { magic: *b"LAMSHARE", version: 1 };

const META: usize = 0;
const DONORS: usize = 1;
const RUNS: usize = 2;
const SECTIONS: usize = 3;

/// The most layers that one layer borrows from, not counting itself.
pub(crate) const DONORS_MAX: usize = 2;

/// The layer this map belongs to.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MetaRecord {
    diff_id: [u8; 32],
    /// Bytes of the tar.
    length: U64,
}

/// A part of the tar that is stored elsewhere: 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RunRecord {
    /// Where it is in this layer's tar.
    offset: U64,
    /// More than 0.
    length: U64,
    /// Where its bytes are in the donor's tar.
    donor_offset: U64,
    /// 0 for this layer itself, n for donor n - 1.
    donor: U32,
    reserved: U32,
}

/// A part of a tar that is stored elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// 0 for the layer itself, n for donor n - 1.
    pub(crate) donor: usize,
    pub(crate) donor_offset: u64,
}

impl Run {
    /// Returns its range in the layer's tar.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// Returns its range in the donor's tar.
    pub(crate) fn donor_range(&self) -> Range<u64> {
        self.donor_offset..self.donor_offset + self.length
    }
}

impl RunRecord {
    fn run(&self) -> Run {
        let (offset, length, donor_offset) = (self.offset.get(), self.length.get(), self.donor_offset.get());
        Run { offset, length, donor: self.donor.get() as usize, donor_offset }
    }

    fn end(&self) -> Option<u64> {
        self.offset.get().checked_add(self.length.get())
    }
}

/// A sharing map, opened and validated.
#[derive(Debug)]
pub(crate) struct SharingMap {
    bytes: IndexBytes,
    sections: Sections<SECTIONS>,
}

impl SharingMap {
    /// Opens a map and validates all of it in one pass.
    pub(crate) fn open(bytes: IndexBytes) -> Result<Self, Unusable> {
        let sections = Sections::open(&bytes, FORMAT)?;
        sections.check_records::<MetaRecord>(&bytes, META, "meta record")?;
        sections.check_records::<[u8; 32]>(&bytes, DONORS, "donor table")?;
        sections.check_records::<RunRecord>(&bytes, RUNS, "run table")?;
        let map = Self { bytes, sections };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), Unusable> {
        require(self.meta().is_some_and(|meta| meta.length.get() <= i64::MAX.cast_unsigned()), "meta record")?;
        let donors = self.donor_records();
        require(donors.len() <= DONORS_MAX && !donors.contains(self.layer().0.as_bytes()), "donor table")?;
        require(donors.first() != donors.get(1) || donors.is_empty(), "donor table")?;
        let mut behind = 0;
        for record in self.records() {
            let end = record.end().filter(|&end| end <= self.length());
            require(record.offset.get() >= behind && record.length.get() > 0, "run table")?;
            require(record.donor.get() as usize <= donors.len(), "run table")?;
            let donor_end = record.donor_offset.get().checked_add(record.length.get());
            require(donor_end.is_some_and(|end| end <= i64::MAX.cast_unsigned()), "run table")?;
            behind = end.ok_or(Unusable::Inconsistent("run table"))?;
        }
        // The runs can only be searched after all of them are known to be in order.
        let mut own = self.runs().filter(|run| run.donor == 0);
        let held = own.all(|run| run.donor_range().end <= self.length() && self.holds(&run.donor_range()));
        require(held, "run table")
    }

    fn meta(&self) -> Option<&MetaRecord> {
        self.sections.records(&self.bytes, META).first()
    }

    fn donor_records(&self) -> &[[u8; 32]] {
        self.sections.records(&self.bytes, DONORS)
    }

    fn records(&self) -> &[RunRecord] {
        self.sections.records(&self.bytes, RUNS)
    }

    /// Returns the layer that this map was made for.
    pub(crate) fn layer(&self) -> DiffId {
        DiffId(Digest::from_bytes(self.meta().map(|meta| meta.diff_id).unwrap_or_default()))
    }

    /// Returns the length of the layer's tar in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.meta().map(|meta| meta.length.get()).unwrap_or_default()
    }

    /// Returns the layers it borrows from: donor n of a run is element n - 1.
    pub(crate) fn donors(&self) -> impl ExactSizeIterator<Item = DiffId> {
        self.donor_records().iter().map(|bytes| DiffId(Digest::from_bytes(*bytes)))
    }

    /// Returns all runs, in the order of the tar.
    pub(crate) fn runs(&self) -> impl ExactSizeIterator<Item = Run> {
        self.records().iter().map(RunRecord::run)
    }

    /// Returns the runs that end after `offset`, in the order of the tar.
    pub(crate) fn runs_from(&self, offset: u64) -> impl ExactSizeIterator<Item = Run> {
        let first = self.records().partition_point(|record| record.end().unwrap_or(u64::MAX) <= offset);
        self.records().get(first..).unwrap_or_default().iter().map(RunRecord::run)
    }

    /// Whether all of this part of the tar is in the layer's own file.
    pub(crate) fn holds(&self, range: &Range<u64>) -> bool {
        self.runs_from(range.start).next().is_none_or(|run| run.offset >= range.end)
    }
}

/// Returns the bytes of a map. `runs` must be in the order of the tar.
pub(crate) fn write(layer: &DiffId, length: u64, donors: &[DiffId], runs: &[Run]) -> std::io::Result<Vec<u8>> {
    let lengths = [size_of::<MetaRecord>(), donors.len() * 32, runs.len() * size_of::<RunRecord>()];
    let out = std::io::Cursor::new(Vec::new());
    let mut writer = SectionWriter::new(out, FORMAT, &lengths.map(|length| length as u64))?;
    writer.put(MetaRecord { diff_id: *layer.0.as_bytes(), length: length.into() }.as_bytes())?;
    writer.align()?;
    for donor in donors {
        writer.put(donor.0.as_bytes())?;
    }
    writer.align()?;
    for run in runs {
        let record = RunRecord {
            offset: run.offset.into(),
            length: run.length.into(),
            donor_offset: run.donor_offset.into(),
            donor: u32::try_from(run.donor).map_err(std::io::Error::other)?.into(),
            reserved: 0.into(),
        };
        writer.put(record.as_bytes())?;
    }
    writer.align()?;
    writer.finish().map(std::io::Cursor::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: u8) -> DiffId {
        DiffId(Digest::of(&[number]))
    }

    fn opened(donors: &[DiffId], runs: &[(u64, u64, usize, u64)]) -> Result<SharingMap, Unusable> {
        let run = |&(offset, length, donor, donor_offset)| Run { offset, length, donor, donor_offset };
        let runs: Vec<_> = runs.iter().map(run).collect();
        SharingMap::open(IndexBytes::Owned(write(&layer(0), 100, donors, &runs).expect("a map")))
    }

    #[test]
    fn a_map_says_what_the_layer_holds() {
        let map = opened(&[layer(1)], &[(10, 20, 1, 5), (50, 10, 0, 70)]).expect("a good map");
        assert_eq!((map.layer(), map.length()), (layer(0), 100));
        assert!(map.donors().eq([layer(1)]));
        assert!(map.runs().map(|run| run.range()).eq([10..30, 50..60]));
        let held = [0..10, 30..50, 60..100];
        assert!(held.iter().all(|range| map.holds(range)));
        let lacking = [0..11, 29..31, 20..60, 59..61, 0..100];
        assert!(!lacking.iter().any(|range| map.holds(range)));
        assert_eq!(map.runs_from(30).next().map(|run| run.donor_offset), Some(70));
        assert_eq!(map.runs_from(29).len(), 2);
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(opened(&[layer(1), layer(2)], &[]).is_ok());
        assert!(opened(&[layer(1), layer(2), layer(3)], &[]).is_err(), "too many donors");
        assert!(opened(&[layer(1), layer(1)], &[]).is_err(), "a donor twice");
        assert!(opened(&[layer(0)], &[]).is_err(), "itself as another");
        assert!(opened(&[layer(1)], &[(10, 0, 1, 0)]).is_err(), "an empty run");
        assert!(opened(&[layer(1)], &[(10, 91, 1, 0)]).is_err(), "behind the end");
        assert!(opened(&[layer(1)], &[(10, 10, 1, 0), (19, 10, 1, 0)]).is_err(), "overlapping");
        assert!(opened(&[layer(1)], &[(10, 10, 2, 0)]).is_err(), "no such donor");
        assert!(opened(&[layer(1)], &[(10, 10, 1, u64::MAX - 5)]).is_err(), "no such offset");
        assert!(opened(&[], &[(10, 10, 0, 15)]).is_err(), "in itself where it has a hole");
        assert!(opened(&[], &[(10, 10, 0, 95)]).is_err(), "in itself behind the end");
        assert!(opened(&[], &[(u64::MAX, 10, 0, 50)]).is_err(), "overflow");
    }
}
