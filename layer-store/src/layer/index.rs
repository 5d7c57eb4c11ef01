//! A layer index, opened and validated.

use super::format::{
    CONTROL_FOREIGN, CONTROL_GHOST, ENTRIES, EntryRecord, FLAG_FOREIGN_BELOW, FLAG_GHOST, FLAG_IMPLICIT, FLAG_OPAQUE,
    FLAG_SEGMENTS, FOREIGN, FORMAT, ForeignRecord, HEAP, INODES, InodeRecord, LINKS, LinkRecord, META, MetaRecord,
    SECTIONS, SEGMENTS, SegmentRecord, VALUES, XATTR_SETS, XATTRS, XattrRecord, XattrSetRecord,
};
use crate::mapped::IndexBytes;
use crate::section_file::{Sections, Unusable};
use crate::{DiffId, Digest, Kind, Timestamp};

/// The tables of one layer. Every offset in them was validated, so reading it cannot fail, loop or leave its bounds.
#[derive(Debug)]
pub(crate) struct LayerIndex {
    bytes: IndexBytes,
    sections: Sections<SECTIONS>,
}

/// One name of a directory in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameEntry<'index> {
    pub(crate) name: &'index [u8],
    pub(crate) target: EntryTarget<'index>,
}

/// What a name refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryTarget<'index> {
    /// An inode of this layer.
    Inode { number: u32, kind: Kind },
    /// A directory that only holds controls.
    Ghost(u32),
    /// Nothing: the name is deleted from the layers below.
    Whiteout,
    /// The file that the layers below have at this normal path.
    Foreign(&'index [u8]),
}

/// Where the content of a regular file is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Segments<'index> {
    /// All of it in one run of the layer's tar, from this offset.
    Whole(u64),
    /// In runs, with zeros between them.
    Runs(&'index [SegmentRecord]),
}

impl AsRef<Self> for LayerIndex {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl LayerIndex {
    /// Takes the bytes of an index that has not been validated yet.
    pub(super) fn unproved(bytes: IndexBytes) -> Result<Self, Unusable> {
        let sections = Sections::open(&bytes, FORMAT)?;
        Ok(Self { bytes, sections })
    }

    pub(super) fn sections(&self) -> (&[u8], &Sections<SECTIONS>) {
        (&self.bytes, &self.sections)
    }

    fn table<T>(&self, section: usize) -> &[T]
    where
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
    {
        self.sections.records(&self.bytes, section)
    }

    pub(super) fn meta(&self) -> Option<&MetaRecord> {
        self.table(META).first()
    }

    pub(crate) fn inodes(&self) -> &[InodeRecord] {
        self.table(INODES)
    }

    pub(super) fn entry_records(&self) -> &[EntryRecord] {
        self.table(ENTRIES)
    }

    pub(super) fn segment_records(&self) -> &[SegmentRecord] {
        self.table(SEGMENTS)
    }

    pub(super) fn xattr_sets(&self) -> &[XattrSetRecord] {
        self.table(XATTR_SETS)
    }

    pub(super) fn xattr_records(&self) -> &[XattrRecord] {
        self.table(XATTRS)
    }

    pub(crate) fn links(&self) -> &[LinkRecord] {
        self.table(LINKS)
    }

    pub(super) fn foreign_records(&self) -> &[ForeignRecord] {
        self.table(FOREIGN)
    }

    pub(super) fn heap(&self) -> &[u8] {
        self.sections.bytes(&self.bytes, HEAP)
    }

    pub(super) fn values(&self) -> &[u8] {
        self.sections.bytes(&self.bytes, VALUES)
    }

    /// Returns the layer that this index was made for.
    pub(crate) fn diff_id(&self) -> DiffId {
        DiffId(Digest::from_bytes(self.meta().map(|meta| meta.diff_id).unwrap_or_default()))
    }

    /// Returns the size of the layer's blob in bytes.
    pub(crate) fn blob_length(&self) -> u64 {
        self.meta().map(|meta| meta.blob_length.get()).unwrap_or_default()
    }

    pub(crate) fn has_xattrs(&self) -> bool {
        !self.xattr_sets().is_empty()
    }

    pub(crate) fn inode(&self, number: u32) -> Option<&InodeRecord> {
        self.inodes().get(number as usize)
    }

    pub(super) fn name(&self, record: &EntryRecord) -> &[u8] {
        slice(self.heap(), record.name.get(), u32::from(record.name_length))
    }

    /// Returns the name of the entry with this number.
    pub(crate) fn entry_name(&self, entry: u32) -> &[u8] {
        self.entry_records().get(entry as usize).map_or(&[], |record| self.name(record))
    }

    fn entry(&self, record: &EntryRecord) -> NameEntry<'_> {
        let number = record.inode.get();
        let target = match record.control {
            0 => {
                let kind = Kind::from_mode(u32::from(record.d_type) << 12).unwrap_or(Kind::Regular);
                EntryTarget::Inode { number, kind }
            }
            CONTROL_GHOST => EntryTarget::Ghost(number),
            CONTROL_FOREIGN => {
                let target = self.foreign_records().get(number as usize);
                EntryTarget::Foreign(
                    target.map_or(&[], |target| slice(self.heap(), target.start.get(), target.length.get())),
                )
            }
            _ => EntryTarget::Whiteout,
        };
        NameEntry { name: self.name(record), target }
    }

    fn dir_records(&self, dir: &InodeRecord) -> (&[EntryRecord], &[EntryRecord]) {
        let (first, visible) = (dir.first.get() as usize, dir.count.get() as usize);
        let all = self.entry_records().get(first..first + visible + dir.controls.get() as usize).unwrap_or_default();
        all.split_at(visible.min(all.len()))
    }

    /// Returns the visible names of a directory from position `start`, in byte order.
    pub(crate) fn visible(&self, dir: &InodeRecord, start: usize) -> impl ExactSizeIterator<Item = NameEntry<'_>> {
        let (visible, _) = self.dir_records(dir);
        visible.get(start..).unwrap_or_default().iter().map(|record| self.entry(record))
    }

    /// Returns the whiteouts, ghosts and foreign links of a directory, in byte order.
    pub(crate) fn controls(&self, dir: &InodeRecord) -> impl ExactSizeIterator<Item = NameEntry<'_>> {
        let (_, controls) = self.dir_records(dir);
        controls.iter().map(|record| self.entry(record))
    }

    /// Finds a visible name of a directory.
    pub(crate) fn lookup(&self, dir: &InodeRecord, name: &[u8]) -> Option<NameEntry<'_>> {
        self.find(self.dir_records(dir).0, name)
    }

    /// Finds a whiteout, ghost or foreign link of a directory.
    pub(crate) fn control(&self, dir: &InodeRecord, name: &[u8]) -> Option<NameEntry<'_>> {
        self.find(self.dir_records(dir).1, name)
    }

    /// Finds a name among records that are sorted by name.
    fn find(&self, records: &[EntryRecord], name: &[u8]) -> Option<NameEntry<'_>> {
        let at = records.binary_search_by(|record| self.name(record).cmp(name)).ok()?;
        records.get(at).map(|record| self.entry(record))
    }

    /// Returns where the content of a regular file is.
    pub(crate) fn segments(&self, inode: &InodeRecord) -> Segments<'_> {
        if inode.flags.get() & FLAG_SEGMENTS == 0 {
            return Segments::Whole(inode.content.get());
        }
        let (first, count) = (inode.first.get() as usize, inode.count.get() as usize);
        Segments::Runs(self.segment_records().get(first..first + count).unwrap_or_default())
    }

    /// Returns the target of a symbolic link.
    pub(crate) fn link_target(&self, inode: &InodeRecord) -> &[u8] {
        slice(self.heap(), inode.first.get(), inode.count.get())
    }

    /// Returns the names and values of an inode's extended attributes, in byte order of the names.
    pub(crate) fn xattrs(&self, inode: &InodeRecord) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        let set = inode.xattrs.get().checked_sub(1).and_then(|number| self.xattr_sets().get(number as usize));
        let records = set.and_then(|set| {
            let first = set.first.get() as usize;
            self.xattr_records().get(first..first + set.count.get() as usize)
        });
        records.unwrap_or_default().iter().map(|record| {
            let (start, name_length) = (record.start.get(), record.name_length.get());
            let both = slice(self.values(), start, name_length + record.value_length.get());
            both.split_at(both.len().min(name_length as usize))
        })
    }

    /// Whether any inode of this layer has the extended attribute `name`.
    pub(crate) fn uses_xattr(&self, name: &[u8]) -> bool {
        let mut names = self.xattr_records().iter();
        names.any(|record| slice(self.values(), record.start.get(), record.name_length.get()) == name)
    }

    /// Returns the path of an inode in this layer, for messages. If a file has several names, this is the first.
    ///
    /// It searches all entries, so it is for errors only.
    pub(crate) fn path_of(&self, number: u32) -> String {
        let mut names = Vec::new();
        let mut current = number;
        while current != 0 {
            let Some(link) = self.names_of(current).next() else { break };
            names.push(String::from_utf8_lossy(self.entry_name(link.entry.get())).into_owned());
            current = link.dir.get();
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// Returns every name of an inode, by searching all entries.
    fn names_of(&self, number: u32) -> impl Iterator<Item = LinkRecord> {
        self.names().filter(move |link| link.inode.get() == number)
    }

    /// Returns all names of all inodes.
    pub(crate) fn names(&self) -> impl Iterator<Item = LinkRecord> {
        let dirs = (0u32..).zip(self.inodes()).filter(|(_, inode)| inode.is_directory());
        dirs.flat_map(move |(dir, inode)| {
            let (visible, controls) = self.dir_records(inode);
            let records = (inode.first.get()..).zip(visible.iter().chain(controls));
            records
                .filter(|(_, record)| matches!(record.control, 0 | CONTROL_GHOST))
                .map(move |(entry, record)| LinkRecord { inode: record.inode, dir: dir.into(), entry: entry.into() })
        })
    }
}

impl InodeRecord {
    pub(crate) fn kind(&self) -> Kind {
        Kind::from_mode(self.mode.get()).unwrap_or(Kind::Regular)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.flags.get() & FLAG_OPAQUE != 0
    }

    pub(crate) fn is_implicit(&self) -> bool {
        self.flags.get() & FLAG_IMPLICIT != 0
    }

    pub(crate) fn is_ghost(&self) -> bool {
        self.flags.get() & FLAG_GHOST != 0
    }

    pub(crate) fn has_foreign_below(&self) -> bool {
        self.flags.get() & FLAG_FOREIGN_BELOW != 0
    }

    pub(crate) fn mtime(&self) -> Timestamp {
        Timestamp { seconds: self.mtime_seconds.get(), nanoseconds: self.mtime_nanoseconds.get() }
    }
}

/// Returns bytes of a heap. The start and the length were validated when the index was opened.
pub(super) fn slice(heap: &[u8], start: u32, length: u32) -> &[u8] {
    heap.get(start as usize..start as usize + length as usize).unwrap_or_default()
}
