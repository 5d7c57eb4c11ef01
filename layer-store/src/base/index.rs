//! A base, opened and validated.

use super::format::{
    ATTACHED, AttachedRecord, DIRS, DirRecord, ENTRIES, EntryRecord, FORMAT, HEAP, LAYERS, MERGED, NLINKS, NlinkRecord,
    SECTIONS,
};
use super::stack::LayerInode;
use crate::mapped::IndexBytes;
use crate::section_file::{Sections, Unusable};
use crate::{DiffId, Digest, Kind};

/// The merge index of a stack, validated together with the layers that it refers to.
#[derive(Debug)]
pub(crate) struct Base {
    bytes: IndexBytes,
    sections: Sections<SECTIONS>,
}

/// A merged directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BaseDir<'base> {
    record: &'base DirRecord,
}

/// A name in a merged directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BaseEntry<'base> {
    pub(crate) name: &'base [u8],
    pub(crate) kind: Kind,
    pub(crate) target: BaseTarget,
}

/// What a name of a merged directory refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BaseTarget {
    Layer { layer: u32, inode: u32 },
    Merged(u32),
}

impl Base {
    /// Takes the bytes of a base that has not been validated yet.
    pub(super) fn unproved(bytes: IndexBytes) -> Result<Self, Unusable> {
        let sections = Sections::open(&bytes, FORMAT)?;
        Ok(Self { bytes, sections })
    }

    pub(super) fn sections(&self) -> (&[u8], &Sections<SECTIONS>) {
        (&self.bytes, &self.sections)
    }

    pub(super) fn dirs(&self) -> &[DirRecord] {
        self.sections.records(&self.bytes, DIRS)
    }

    pub(super) fn entry_records(&self) -> &[EntryRecord] {
        self.sections.records(&self.bytes, ENTRIES)
    }

    pub(super) fn heap(&self) -> &[u8] {
        self.sections.bytes(&self.bytes, HEAP)
    }

    pub(super) fn attached(&self) -> &[AttachedRecord] {
        self.sections.records(&self.bytes, ATTACHED)
    }

    pub(super) fn nlinks(&self) -> &[NlinkRecord] {
        self.sections.records(&self.bytes, NLINKS)
    }

    /// Returns the layers, bottom first.
    pub(crate) fn layers(&self) -> impl ExactSizeIterator<Item = DiffId> {
        let ids: &[[u8; 32]] = self.sections.records(&self.bytes, LAYERS);
        ids.iter().map(|bytes| DiffId(Digest::from_bytes(*bytes)))
    }

    /// Returns the merged directory with this number.
    pub(crate) fn dir(&self, number: u32) -> Option<BaseDir<'_>> {
        self.dirs().get(number as usize).map(|record| BaseDir { record })
    }

    pub(super) fn name(&self, record: &EntryRecord) -> &[u8] {
        let start = record.name.get() as usize;
        self.heap().get(start..start + usize::from(record.name_length)).unwrap_or_default()
    }

    fn entry(&self, record: &EntryRecord) -> BaseEntry<'_> {
        let target = match record.layer.get() {
            MERGED => BaseTarget::Merged(record.target.get()),
            layer => BaseTarget::Layer { layer: layer.into(), inode: record.target.get() },
        };
        let kind = Kind::from_mode(u32::from(record.d_type) << 12).unwrap_or(Kind::Regular);
        BaseEntry { name: self.name(record), kind, target }
    }

    pub(super) fn records_of(&self, dir: &DirRecord) -> &[EntryRecord] {
        let (first, count) = (dir.first.get() as usize, dir.count.get() as usize);
        self.entry_records().get(first..first + count).unwrap_or_default()
    }

    /// Returns the names of a merged directory from position `start`, in byte order.
    pub(crate) fn names(&self, dir: BaseDir<'_>, start: usize) -> impl ExactSizeIterator<Item = BaseEntry<'_>> {
        self.records_of(dir.record).get(start..).unwrap_or_default().iter().map(|record| self.entry(record))
    }

    /// Finds a name of a merged directory.
    pub(crate) fn lookup(&self, dir: BaseDir<'_>, name: &[u8]) -> Option<BaseEntry<'_>> {
        let records = self.records_of(dir.record);
        let at = records.binary_search_by(|record| self.name(record).cmp(name)).ok()?;
        records.get(at).map(|record| self.entry(record))
    }

    /// Returns the merged directory that contains a layer's directory, if any.
    pub(crate) fn parent_of(&self, layer: u32, inode: u32) -> Option<u32> {
        let key = (layer, inode);
        let at = self.attached().binary_search_by(|record| (record.layer.get(), record.inode.get()).cmp(&key));
        at.ok().and_then(|at| self.attached().get(at)).map(|record| record.parent.get())
    }

    /// Returns the link count of a layer's file in the merged tree, if it differs from that in its layer.
    pub(crate) fn nlink_of(&self, layer: u32, inode: u32) -> Option<u32> {
        let key = (layer, inode);
        let at = self.nlinks().binary_search_by(|record| (record.layer.get(), record.inode.get()).cmp(&key));
        at.ok().and_then(|at| self.nlinks().get(at)).map(|record| record.nlink.get())
    }
}

impl BaseDir<'_> {
    /// Returns the layer's inode with its attributes.
    pub(crate) fn attributes(&self) -> LayerInode {
        LayerInode { layer: self.record.layer.get(), inode: self.record.inode.get() }
    }

    pub(crate) fn nlink(&self) -> u32 {
        self.record.nlink.get()
    }

    /// Returns the merged directory that contains it.
    pub(crate) fn parent(&self) -> u32 {
        self.record.parent.get()
    }
}
