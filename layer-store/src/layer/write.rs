//! Writes the index of a layer whose tree is complete.

use std::io::{self, Seek, Write};

use zerocopy::IntoBytes;

use super::format::{
    CONTROL_FOREIGN, CONTROL_GHOST, CONTROL_WHITEOUT, EntryRecord, FLAG_FOREIGN_BELOW, FLAG_GHOST, FLAG_IMPLICIT,
    FLAG_OPAQUE, FLAG_SEGMENTS, FORMAT, ForeignRecord, InodeRecord, LinkRecord, MetaRecord, SegmentRecord, XattrRecord,
    XattrSetRecord,
};
use super::nodes::{Inode, Payload};
use super::plan::{Children, Plan, Role};
use super::refusal::EntryRefused;
use super::tree::TreeBuilder;
use crate::section_file::SectionWriter;
use crate::{DiffId, Kind};

/// The position in the tables of what belongs to a directory (its entries) or a symbolic link (its target).
#[derive(Clone, Copy, Debug, Default)]
struct Placement {
    first: u32,
    count: u32,
    controls: u32,
    subdirectories: u32,
    parent: u32,
}

/// The tables of an index, except the inodes.
#[derive(Debug, Default)]
struct Tables {
    entries: Vec<EntryRecord>,
    /// The directory of each entry.
    entry_dirs: Vec<u32>,
    heap: Vec<u8>,
    /// The number of visible names of each inode.
    nlinks: Vec<u32>,
    placements: Vec<Placement>,
    links: Vec<LinkRecord>,
    foreign: Vec<ForeignRecord>,
    xattr_sets: Vec<XattrSetRecord>,
    xattrs: Vec<XattrRecord>,
    values: Vec<u8>,
}

/// What can go wrong when an index is written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Refused(#[from] EntryRefused),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl TreeBuilder {
    /// Completes the tree and writes its index.
    pub(crate) fn write_index<W: Write + Seek>(
        mut self,
        out: W,
        diff_id: &DiffId,
        blob_length: u64,
    ) -> Result<W, WriteError> {
        // Links are bound before markers are applied: a directory that only holds markers cannot be the target of a
        // link.
        if !self.pending.is_empty() {
            let reachable = Children::of(&self).reachable(&self);
            self.bind_pending_links(&reachable)?;
        }
        self.apply_markers()?;
        let plan = Plan::of(&self);
        let tables = Tables::of(&self, &plan)?;
        let content = plan.order.iter().filter_map(|&inode| self.inode(inode)).filter(|i| i.kind == Kind::Regular);
        let meta = MetaRecord {
            diff_id: *diff_id.0.as_bytes(),
            blob_length: blob_length.into(),
            content_bytes: content.map(|inode| inode.size).fold(0u64, u64::saturating_add).into(),
        };
        Ok(self.write_tables(out, &plan, &tables, &meta)?)
    }

    fn write_tables<W: Write + Seek>(&self, out: W, plan: &Plan, tables: &Tables, meta: &MetaRecord) -> io::Result<W> {
        let lengths = [
            size_of::<MetaRecord>(),
            plan.order.len() * size_of::<InodeRecord>(),
            tables.entries.as_bytes().len(),
            tables.heap.len(),
            self.segments.len() * size_of::<SegmentRecord>(),
            tables.xattr_sets.as_bytes().len(),
            tables.xattrs.as_bytes().len(),
            tables.values.len(),
            tables.links.as_bytes().len(),
            tables.foreign.as_bytes().len(),
        ];
        let mut writer = SectionWriter::new(out, FORMAT, &lengths.map(|length| length as u64))?;
        writer.put(meta.as_bytes())?;
        writer.align()?;
        for (number, &inode) in plan.order.iter().enumerate() {
            if let Some(inode_of_tree) = self.inode(inode) {
                writer.put(tables.inode_record(plan, number, inode, inode_of_tree).as_bytes())?;
            }
        }
        writer.align()?;
        for section in [tables.entries.as_bytes(), &tables.heap] {
            writer.put(section)?;
            writer.align()?;
        }
        for segment in &self.segments {
            let record = SegmentRecord {
                file_offset: segment.file_offset.into(),
                blob_offset: segment.blob_offset.into(),
                length: segment.length.into(),
            };
            writer.put(record.as_bytes())?;
        }
        writer.align()?;
        for section in [
            tables.xattr_sets.as_bytes(),
            tables.xattrs.as_bytes(),
            &tables.values,
            tables.links.as_bytes(),
            tables.foreign.as_bytes(),
        ] {
            writer.put(section)?;
            writer.align()?;
        }
        writer.finish()
    }
}

impl Tables {
    fn of(tree: &TreeBuilder, plan: &Plan) -> io::Result<Self> {
        let mut tables = Self {
            nlinks: vec![0; plan.order.len()],
            placements: vec![Placement::default(); plan.order.len()],
            ..Self::default()
        };
        for (number, &inode) in (0u32..).zip(&plan.order) {
            match tree.inode(inode).map(|inode| (inode.kind, inode.payload)) {
                Some((Kind::Directory, _)) => tables.add_directory(tree, plan, number, inode)?,
                Some((_, Payload::Symlink { start, length })) => {
                    let target = tree.heap.get(start as usize..(start + length) as usize).unwrap_or_default();
                    let start = tables.keep(target)?;
                    if let Some(placement) = tables.placements.get_mut(number as usize) {
                        *placement = Placement { first: start, count: length, ..*placement };
                    }
                }
                _ => {}
            }
        }
        tables.add_links();
        tables.add_xattrs(tree)?;
        Ok(tables)
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<u32> {
        let start = position(self.heap.len())?;
        self.heap.extend_from_slice(bytes);
        Ok(start)
    }

    fn add_directory(&mut self, tree: &TreeBuilder, plan: &Plan, number: u32, inode: u32) -> io::Result<()> {
        let first = position(self.entries.len())?;
        let (mut visible, mut subdirectories) = (0, 0);
        for (slot, role) in plan.names(tree, inode) {
            let Role::Visible(child) = role else { continue };
            let kind = tree.inode(child).map_or(Kind::Regular, |inode| inode.kind);
            self.push_entry(number, tree.name(slot), plan.number_of(child), kind.d_type(), 0)?;
            self.adopt(plan.number_of(child), kind, number);
            subdirectories += u32::from(kind == Kind::Directory);
            visible += 1;
        }
        for (slot, role) in plan.names(tree, inode) {
            let name = tree.name(slot);
            match role {
                Role::Visible(_) => {}
                Role::Whiteout => self.push_entry(number, name, 0, 0, CONTROL_WHITEOUT)?,
                Role::Ghost(child) => {
                    self.push_entry(number, name, plan.number_of(child), Kind::Directory.d_type(), CONTROL_GHOST)?;
                    self.adopt(plan.number_of(child), Kind::Directory, number);
                }
                Role::Foreign(link) => {
                    let target = tree.pending.get(link as usize).map_or(&[][..], |link| link.target.as_bytes());
                    let record = position(self.foreign.len())?;
                    let start = self.keep(target)?;
                    self.foreign.push(ForeignRecord { start: start.into(), length: position(target.len())?.into() });
                    self.push_entry(number, name, record, 0, CONTROL_FOREIGN)?;
                }
            }
        }
        let controls = position(self.entries.len())? - first - visible;
        if let Some(placement) = self.placements.get_mut(number as usize) {
            *placement = Placement { first, count: visible, controls, subdirectories, ..*placement };
        }
        Ok(())
    }

    fn push_entry(&mut self, dir: u32, name: &[u8], inode: u32, d_type: u32, control: u8) -> io::Result<()> {
        let start = self.keep(name)?;
        self.entry_dirs.push(dir);
        self.entries.push(EntryRecord {
            name: start.into(),
            inode: inode.into(),
            name_length: u8::try_from(name.len()).map_err(io::Error::other)?,
            d_type: u8::try_from(d_type).map_err(io::Error::other)?,
            control,
            reserved: 0,
        });
        Ok(())
    }

    fn adopt(&mut self, child: u32, kind: Kind, parent: u32) {
        if let Some(nlink) = self.nlinks.get_mut(child as usize) {
            *nlink += 1;
        }
        if kind == Kind::Directory
            && let Some(placement) = self.placements.get_mut(child as usize)
        {
            placement.parent = parent;
        }
    }

    /// Lists every name of the inodes that have several.
    fn add_links(&mut self) {
        let directory = Kind::Directory.d_type();
        for ((entry, record), &dir) in (0u32..).zip(&self.entries).zip(&self.entry_dirs) {
            let inode = record.inode.get();
            let visible_file = record.control == 0 && u32::from(record.d_type) != directory;
            if visible_file && self.nlinks.get(inode as usize).is_some_and(|&nlink| nlink > 1) {
                self.links.push(LinkRecord { inode: inode.into(), dir: dir.into(), entry: entry.into() });
            }
        }
        self.links.sort_unstable_by_key(|link| (link.inode.get(), link.entry.get()));
    }

    fn add_xattrs(&mut self, tree: &TreeBuilder) -> io::Result<()> {
        for set in tree.xattrs.sorted() {
            let first = position(self.xattrs.len())?;
            self.xattr_sets.push(XattrSetRecord { first: first.into(), count: position(set.len())?.into() });
            for (name, value) in set {
                self.xattrs.push(XattrRecord {
                    start: position(self.values.len())?.into(),
                    name_length: position(name.len())?.into(),
                    value_length: position(value.len())?.into(),
                });
                self.values.extend_from_slice(name);
                self.values.extend_from_slice(value);
            }
        }
        Ok(())
    }

    fn inode_record(&self, plan: &Plan, number: usize, tree_number: u32, inode: &Inode) -> InodeRecord {
        let placement = self.placements.get(number).copied().unwrap_or_default();
        let is_directory = inode.kind == Kind::Directory;
        let (content, first, count) = match inode.payload {
            Payload::Whole(offset) => (offset, 0, 0),
            Payload::Sparse { first, count } => (0, first, count),
            Payload::Device { major, minor } => (0, major, minor),
            Payload::Symlink { .. } | Payload::Nothing => (0, placement.first, placement.count),
        };
        let flags = [
            (inode.opaque, FLAG_OPAQUE),
            (inode.implicit && !inode.replaced, FLAG_IMPLICIT),
            (plan.is_ghost(tree_number), FLAG_GHOST),
            (plan.has_foreign_below(tree_number), FLAG_FOREIGN_BELOW),
            (matches!(inode.payload, Payload::Sparse { .. }), FLAG_SEGMENTS),
        ];
        let nlink = self.nlinks.get(number).copied().unwrap_or_default();
        InodeRecord {
            mode: (inode.kind.mode_bits() | inode.permissions).into(),
            uid: inode.uid.into(),
            gid: inode.gid.into(),
            nlink: if is_directory { 2 + placement.subdirectories } else { nlink }.into(),
            size: inode.size.into(),
            mtime_seconds: inode.mtime.seconds.into(),
            mtime_nanoseconds: inode.mtime.nanoseconds.into(),
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum::<u32>().into(),
            content: content.into(),
            first: first.into(),
            count: count.into(),
            controls: placement.controls.into(),
            parent: placement.parent.into(),
            xattrs: inode.xattrs.into(),
            reserved: 0.into(),
            content_hash: inode.content_hash.to_le_bytes(),
        }
    }
}

/// Converts a table position to 32 bits. A layer that needs more is refused while it is read.
fn position(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::other("a table of the index has more than 2^32 elements"))
}
