//! Validates a base once, when it is opened.

use super::format::{
    ATTACHED, AttachedRecord, DIRS, DirRecord, ENTRIES, EntryRecord, LAYERS, MERGED, NLINKS, NlinkRecord,
};
use super::index::Base;
use crate::Kind;
use crate::layer::{InodeRecord, LayerIndex};
use crate::mapped::IndexBytes;
use crate::section_file::{Unusable, require};

impl Base {
    /// Opens a base. The caller must still call [`Base::check`].
    pub(crate) fn open(bytes: IndexBytes) -> Result<Self, Unusable> {
        let base = Self::unproved(bytes)?;
        check_tables(&base)?;
        Ok(base)
    }

    /// Validates every reference into `layers`, which must be those of [`Base::layers`].
    pub(crate) fn check<L: AsRef<LayerIndex>>(&self, layers: &[L]) -> Result<(), Unusable> {
        check_references(self, layers)
    }
}

/// Checks the base by itself: whole records, sorted names, one tree of merged directories.
fn check_tables(base: &Base) -> Result<(), Unusable> {
    let (bytes, sections) = base.sections();
    sections.check_records::<[u8; 32]>(bytes, LAYERS, "layer table")?;
    sections.check_records::<DirRecord>(bytes, DIRS, "directory table")?;
    sections.check_records::<EntryRecord>(bytes, ENTRIES, "entry table")?;
    sections.check_records::<AttachedRecord>(bytes, ATTACHED, "attached table")?;
    sections.check_records::<NlinkRecord>(bytes, NLINKS, "link count table")?;
    require(base.layers().len() < usize::from(MERGED), "layer table")?;
    // An image without layers has a base without directories.
    require(base.dirs().is_empty() == (base.layers().len() == 0), "directory table")?;
    require(base.dirs().first().is_none_or(|root| root.parent.get() == 0), "root")?;
    let mut adopted = vec![false; base.dirs().len()];
    for (number, dir) in (0u32..).zip(base.dirs()) {
        let end = u64::from(dir.first.get()) + u64::from(dir.count.get());
        require(end <= base.entry_records().len() as u64, "directory")?;
        let mut previous: &[u8] = &[];
        for record in base.records_of(dir) {
            check_name(base, record, &mut previous)?;
            if record.layer.get() == MERGED {
                let child = record.target.get();
                let parent = base.dirs().get(child as usize).map(|dir| dir.parent.get());
                require(child > number && parent == Some(number), "directory tree")?;
                require(u32::from(record.d_type) == Kind::Directory.d_type(), "entry type")?;
                let seen = adopted.get_mut(child as usize).ok_or(Unusable::Inconsistent("entry"))?;
                require(!std::mem::replace(seen, true), "directory tree")?;
            }
        }
    }
    require(adopted.iter().skip(1).all(|&adopted| adopted), "directory tree")?;
    let attached = base.attached().iter().map(|record| (record.layer.get(), record.inode.get()));
    require(attached.is_sorted_by(|a, b| a < b), "attached table")?;
    let nlinks = base.nlinks().iter().map(|record| (record.layer.get(), record.inode.get()));
    require(nlinks.is_sorted_by(|a, b| a < b), "link count table")
}

fn check_name<'base>(base: &'base Base, record: &EntryRecord, previous: &mut &'base [u8]) -> Result<(), Unusable> {
    let end = u64::from(record.name.get()) + u64::from(record.name_length);
    require(end <= base.heap().len() as u64, "name")?;
    let name = base.name(record);
    let valid = !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    require(valid && name > *previous, "name")?;
    *previous = name;
    Ok(())
}

/// Checks every reference into the layers: the inode must exist and have the type that the base says.
fn check_references<L: AsRef<LayerIndex>>(base: &Base, layers: &[L]) -> Result<(), Unusable> {
    let kind_of = |layer: u32, inode: u32| {
        let layer = layers.get(layer as usize).map(AsRef::as_ref)?;
        layer.inode(inode).map(InodeRecord::kind)
    };
    require(layers.len() == base.layers().len(), "layer table")?;
    for dir in base.dirs() {
        let described = kind_of(dir.layer.get(), dir.inode.get());
        require(described == Some(Kind::Directory), "directory")?;
    }
    // Every layer directory that the base shows is in the attached table once, with its parent.
    let mut directories = 0;
    for (number, dir) in (0u32..).zip(base.dirs()) {
        for record in base.records_of(dir).iter().filter(|record| record.layer.get() != MERGED) {
            let (layer, inode) = (record.layer.get().into(), record.target.get());
            let kind = kind_of(layer, inode);
            require(kind.is_some_and(|kind| kind.d_type() == u32::from(record.d_type)), "entry")?;
            if kind == Some(Kind::Directory) {
                require(base.parent_of(layer, inode) == Some(number), "attached table")?;
                directories += 1;
            }
        }
    }
    require(directories == base.attached().len(), "attached table")
}
