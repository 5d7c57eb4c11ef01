//! Validates a layer index once, when it is opened, so that no later code needs to check it.

use super::format::{
    CONTROL_FOREIGN, CONTROL_GHOST, CONTROL_WHITEOUT, ENTRIES, EntryRecord, FLAG_SEGMENTS, FOREIGN, ForeignRecord,
    INODES, InodeRecord, LINKS, LinkRecord, META, MetaRecord, SEGMENTS, SegmentRecord, XATTR_SETS, XATTRS, XattrRecord,
    XattrSetRecord,
};
use super::index::LayerIndex;
use crate::Kind;
use crate::mapped::IndexBytes;
use crate::section_file::{Unusable, require};

impl LayerIndex {
    /// Opens an index and validates all of it in one pass.
    pub(crate) fn open(bytes: IndexBytes) -> Result<Self, Unusable> {
        let index = Self::unproved(bytes)?;
        check(&index)?;
        Ok(index)
    }
}

/// Checks that tables hold whole records, that every reference stays in bounds, that names are valid, sorted
/// and unique, that directories form one tree in which a child's number is greater than its parent's, and that
/// segments are in order and within their blob.
fn check(index: &LayerIndex) -> Result<(), Unusable> {
    let (bytes, sections) = index.sections();
    sections.check_records::<MetaRecord>(bytes, META, "meta record")?;
    sections.check_records::<InodeRecord>(bytes, INODES, "inode table")?;
    sections.check_records::<EntryRecord>(bytes, ENTRIES, "entry table")?;
    sections.check_records::<SegmentRecord>(bytes, SEGMENTS, "segment table")?;
    sections.check_records::<XattrSetRecord>(bytes, XATTR_SETS, "xattr set table")?;
    sections.check_records::<XattrRecord>(bytes, XATTRS, "xattr table")?;
    sections.check_records::<LinkRecord>(bytes, LINKS, "link table")?;
    sections.check_records::<ForeignRecord>(bytes, FOREIGN, "foreign link table")?;
    require(index.meta().is_some_and(|meta| meta.blob_length.get() <= i64::MAX.cast_unsigned()), "meta record")?;
    require(index.inodes().first().is_some_and(|root| root.is_directory() && root.parent.get() == 0), "root")?;
    // The last inode number is reserved to mean "none".
    require(index.inodes().len() < u32::MAX as usize, "inode table")?;
    check_heap_references(index)?;
    let mut adopted = vec![false; index.inodes().len()];
    for (number, inode) in (0u32..).zip(index.inodes()) {
        check_inode(index, number, inode, &mut adopted)?;
    }
    for (inode, adopted) in index.inodes().iter().zip(&adopted).skip(1) {
        require(!inode.is_directory() || *adopted, "directory tree")?;
    }
    check_links(index)
}

fn check_heap_references(index: &LayerIndex) -> Result<(), Unusable> {
    let within = |heap: &[u8], start: u32, length: u64| u64::from(start) + length <= heap.len() as u64;
    for record in index.foreign_records() {
        require(within(index.heap(), record.start.get(), record.length.get().into()), "foreign link table")?;
    }
    for record in index.xattr_records() {
        let length = u64::from(record.name_length.get()) + u64::from(record.value_length.get());
        require(within(index.values(), record.start.get(), length), "xattr table")?;
        require(u32::try_from(length).is_ok(), "xattr table")?;
    }
    for set in index.xattr_sets() {
        let end = u64::from(set.first.get()) + u64::from(set.count.get());
        require(end <= index.xattr_records().len() as u64, "xattr set table")?;
    }
    Ok(())
}

fn check_inode(index: &LayerIndex, number: u32, inode: &InodeRecord, adopted: &mut [bool]) -> Result<(), Unusable> {
    let kind = Kind::from_mode(inode.mode.get()).ok_or(Unusable::Inconsistent("inode type"))?;
    require(inode.mtime_nanoseconds.get() < 1_000_000_000, "inode time")?;
    require(inode.xattrs.get() as usize <= index.xattr_sets().len(), "inode xattrs")?;
    match kind {
        Kind::Directory => check_directory(index, number, inode, adopted),
        Kind::Regular => check_file(index, inode),
        Kind::Symlink => {
            let end = u64::from(inode.first.get()) + u64::from(inode.count.get());
            let length = u64::from(inode.count.get());
            require(end <= index.heap().len() as u64 && (1..=4095).contains(&length), "link target")?;
            require(inode.size.get() == length, "link target")
        }
        _ => Ok(()),
    }
}

fn check_directory(index: &LayerIndex, number: u32, inode: &InodeRecord, adopted: &mut [bool]) -> Result<(), Unusable> {
    let first = inode.first.get() as usize;
    let visible_end = first + inode.count.get() as usize;
    let end = visible_end + inode.controls.get() as usize;
    let records = index.entry_records();
    let visible = records.get(first..visible_end).ok_or(Unusable::Inconsistent("directory"))?;
    let controls = records.get(visible_end..end).ok_or(Unusable::Inconsistent("directory"))?;
    for (records, are_controls) in [(visible, false), (controls, true)] {
        let mut previous: &[u8] = &[];
        for record in records {
            let name_end = u64::from(record.name.get()) + u64::from(record.name_length);
            require(name_end <= index.heap().len() as u64, "name")?;
            let name = index.name(record);
            let valid =
                !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, 0 | b'/'));
            require(valid, "name")?;
            require(name > previous, "order of names")?;
            previous = name;
            require((record.control != 0) == are_controls, "entry")?;
            check_entry(index, number, record, adopted)?;
        }
    }
    Ok(())
}

fn check_entry(index: &LayerIndex, dir: u32, record: &EntryRecord, adopted: &mut [bool]) -> Result<(), Unusable> {
    match record.control {
        CONTROL_WHITEOUT => return Ok(()),
        CONTROL_FOREIGN => {
            return require((record.inode.get() as usize) < index.foreign_records().len(), "foreign link");
        }
        0 | CONTROL_GHOST => {}
        _ => return Err(Unusable::Inconsistent("entry")),
    }
    let child = record.inode.get();
    let inode = index.inode(child).ok_or(Unusable::Inconsistent("entry"))?;
    require(u32::from(record.d_type) == inode.kind().d_type(), "entry type")?;
    require((record.control == CONTROL_GHOST) == inode.is_ghost(), "ghost")?;
    if !inode.is_directory() {
        return require(record.control == 0 && child != 0, "entry");
    }
    require(child > dir && inode.parent.get() == dir, "directory tree")?;
    let seen = adopted.get_mut(child as usize).ok_or(Unusable::Inconsistent("entry"))?;
    require(!std::mem::replace(seen, true), "directory tree")
}

fn check_file(index: &LayerIndex, inode: &InodeRecord) -> Result<(), Unusable> {
    let size = inode.size.get();
    require(size <= i64::MAX.cast_unsigned(), "file size")?;
    let blob_length = index.meta().map(|meta| meta.blob_length.get()).unwrap_or_default();
    if inode.flags.get() & FLAG_SEGMENTS == 0 {
        let end = inode.content.get().checked_add(size);
        return require(size == 0 || end.is_some_and(|end| end <= blob_length), "file content");
    }
    let (first, count) = (inode.first.get() as usize, inode.count.get() as usize);
    let segments = index.segment_records().get(first..first + count);
    let mut file_end = 0;
    for segment in segments.ok_or(Unusable::Inconsistent("segments"))? {
        let (start, length) = (segment.file_offset.get(), segment.length.get());
        let end = start.checked_add(length).filter(|&end| end <= size);
        let blob_end = segment.blob_offset.get().checked_add(length);
        require(start >= file_end && length > 0, "segments")?;
        require(blob_end.is_some_and(|end| end <= blob_length), "segments")?;
        file_end = end.ok_or(Unusable::Inconsistent("segments"))?;
    }
    Ok(())
}

fn check_links(index: &LayerIndex) -> Result<(), Unusable> {
    let mut previous = (0, 0);
    for link in index.links() {
        let entry = index.entry_records().get(link.entry.get() as usize);
        let dir = index.inode(link.dir.get());
        let of_dir = dir.is_some_and(|dir| {
            let first = dir.first.get();
            dir.is_directory() && (first..first.saturating_add(dir.count.get())).contains(&link.entry.get())
        });
        let leads_there = entry.is_some_and(|entry| entry.inode.get() == link.inode.get() && entry.control == 0);
        require(of_dir && leads_there, "link table")?;
        require((link.inode.get(), link.entry.get()) >= previous, "order of links")?;
        previous = (link.inode.get(), link.entry.get());
    }
    Ok(())
}
