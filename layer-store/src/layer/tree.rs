//! Builds the tree of one layer while its tar is read: the last entry of a path wins.

use hashbrown::HashTable;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::names::{Name, is_aufs};
use super::nodes::{Inode, Marker, NameSlot, Payload, PendingLink, ROOT, SlotTarget};
use super::refusal::{Cause, EntryRefused};
use super::xattrs::XattrSets;
use crate::Kind;
use crate::tar::{Entry, EntryKind, NormalPath, PathError, Segment, Sink};

/// Builds the tree of one layer.
pub(crate) struct TreeBuilder {
    pub(super) inodes: Vec<Inode>,
    pub(super) slots: Vec<NameSlot>,
    /// Finds a slot by directory and name.
    table: HashTable<u32>,
    /// Names and link targets.
    pub(super) heap: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    pub(super) xattrs: XattrSets,
    pub(super) pending: Vec<PendingLink>,
    pub(super) markers: Vec<Marker>,
    /// The regular file whose content is being read.
    open_file: Option<u32>,
    hasher: Box<Xxh3>,
    max_inodes: u32,
    /// Bytes of paths walked again because a hard link leads through a symbolic link.
    pub(super) followed: u64,
    /// Bytes of names, link targets, extended attributes and sparse maps held so far.
    held: usize,
}

/// The most bytes of names, link targets, extended attributes and sparse maps that one layer may have, because a server
/// maps them and a builder keeps them in memory.
const HELD_MAX: usize = 1 << 30;

fn slot_hash(dir: u32, name: &[u8]) -> u64 {
    xxh3_64_with_seed(name, u64::from(dir))
}

impl TreeBuilder {
    /// Creates an empty layer, whose root is implicit. It refuses more than `max_inodes` inodes.
    pub(crate) fn new(max_inodes: u32) -> Self {
        let mut builder = Self {
            inodes: Vec::new(),
            slots: Vec::new(),
            table: HashTable::new(),
            heap: Vec::new(),
            segments: Vec::new(),
            xattrs: XattrSets::default(),
            pending: Vec::new(),
            markers: Vec::new(),
            open_file: None,
            hasher: Box::default(),
            max_inodes,
            followed: 0,
            held: 0,
        };
        builder.inodes.push(Inode::implicit_directory());
        builder
    }

    pub(super) fn name(&self, slot: &NameSlot) -> &[u8] {
        let start = slot.name_start as usize;
        self.heap.get(start..start + usize::from(slot.name_length)).unwrap_or_default()
    }

    pub(super) fn inode(&self, number: u32) -> Option<&Inode> {
        self.inodes.get(number as usize)
    }

    pub(super) fn find(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let found = self.table.find(slot_hash(dir, name), |&slot| {
            self.slots.get(slot as usize).is_some_and(|slot| slot.dir == dir && self.name(slot) == name)
        });
        found.copied()
    }

    /// Returns the slot of a name, and creates it if it does not exist.
    pub(super) fn slot(&mut self, dir: u32, name: &[u8]) -> Result<u32, Cause> {
        if let Some(slot) = self.find(dir, name) {
            return Ok(slot);
        }
        let number = u32::try_from(self.slots.len()).map_err(|_| self.too_many())?;
        let name_start = self.keep(name)?;
        let name_length = u8::try_from(name.len()).map_err(|_| Cause::Path(PathError::ComponentTooLong))?;
        self.slots.push(NameSlot { dir, name_start, name_length, whited: false, target: SlotTarget::Nothing });
        let (slots, heap) = (&self.slots, &self.heap);
        self.table.insert_unique(slot_hash(dir, name), number, |&slot| {
            let Some(slot) = slots.get(slot as usize) else { return 0 };
            let start = slot.name_start as usize;
            slot_hash(slot.dir, heap.get(start..start + usize::from(slot.name_length)).unwrap_or_default())
        });
        Ok(number)
    }

    fn too_many(&self) -> Cause {
        Cause::TooManyInodes(self.max_inodes)
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Cause> {
        self.held = self.held.saturating_add(bytes);
        if self.held > HELD_MAX { Err(Cause::TooManyNames) } else { Ok(()) }
    }

    /// Appends bytes to the heap and returns where they begin.
    fn keep(&mut self, bytes: &[u8]) -> Result<u32, Cause> {
        self.hold(bytes.len())?;
        let start = u32::try_from(self.heap.len()).map_err(|_| Cause::TooManyNames)?;
        self.heap.extend_from_slice(bytes);
        Ok(start)
    }

    pub(super) fn new_inode(&mut self, inode: Inode) -> Result<u32, Cause> {
        let number = u32::try_from(self.inodes.len()).map_err(|_| self.too_many())?;
        if number >= self.max_inodes {
            return Err(self.too_many());
        }
        self.inodes.push(inode);
        Ok(number)
    }

    pub(super) fn point(&mut self, slot: u32, target: SlotTarget) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.target = target;
        }
    }

    pub(super) fn target(&self, slot: u32) -> SlotTarget {
        self.slots.get(slot as usize).map_or(SlotTarget::Nothing, |slot| slot.target)
    }

    /// Returns the directory that a slot refers to, if it refers to one.
    pub(super) fn directory(&self, slot: u32) -> Option<u32> {
        match self.target(slot) {
            SlotTarget::Inode(inode) if self.inode(inode)?.kind == Kind::Directory => Some(inode),
            _ => None,
        }
    }

    /// Returns the directory at a path. Components that are missing or are not directories become implicit directories.
    fn make_directory(&mut self, path: &[u8]) -> Result<u32, Cause> {
        check_components(path)?;
        let mut dir = ROOT;
        for component in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let slot = self.slot(dir, component)?;
            dir = match self.directory(slot) {
                Some(dir) => dir,
                None => {
                    let inode = self.new_inode(Inode::implicit_directory())?;
                    self.point(slot, SlotTarget::Inode(inode));
                    inode
                }
            };
        }
        Ok(dir)
    }

    /// Finds what is at a path in this layer. Does not follow symbolic links: see [`Self::follow`].
    pub(super) fn resolve(&self, path: &NormalPath) -> Option<u32> {
        let (parent, name) = path.split()?;
        let mut dir = ROOT;
        for component in parent.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            dir = self.directory(self.find(dir, component)?)?;
        }
        self.find(dir, name)
    }

    fn add(&mut self, path: &NormalPath, entry: Entry) -> Result<(), Cause> {
        self.open_file = None;
        let Some((parent, name)) = path.split() else {
            return self.set_root(entry);
        };
        let marker = if parent.is_empty() && is_aufs(name) { Name::Ordinary } else { Name::of(name) };
        match marker {
            Name::Invalid => return Err(Cause::InvalidWhiteout),
            Name::Opaque => return self.add_marker(path, None),
            Name::Whiteout(whited) => return self.add_marker(path, Some(whited)),
            Name::Ordinary => {}
        }
        let dir = self.make_directory(parent)?;
        let slot = self.slot(dir, name)?;
        match entry.kind {
            EntryKind::HardLink { ref target } => self.add_hard_link(path, slot, target),
            EntryKind::Directory => self.add_directory(slot, entry),
            _ => {
                let inode = self.make_inode(entry)?;
                if inode.kind == Kind::Regular {
                    self.hasher.reset();
                    self.open_file = u32::try_from(self.inodes.len()).ok();
                }
                let number = self.new_inode(inode)?;
                self.point(slot, SlotTarget::Inode(number));
                Ok(())
            }
        }
    }

    fn add_marker(&mut self, path: &NormalPath, whited: Option<&[u8]>) -> Result<(), Cause> {
        let dir = path.parent();
        check_components(dir.as_bytes())?;
        self.hold(path.as_bytes().len())?;
        self.markers.push(Marker { dir, whited: whited.map(Into::into) });
        Ok(())
    }

    /// Sets the attributes of the root. An entry for the root that is not a directory is an error.
    fn set_root(&mut self, entry: Entry) -> Result<(), Cause> {
        if entry.kind != EntryKind::Directory {
            return Err(Cause::RootNotDirectory);
        }
        let inode = self.make_inode(entry)?;
        self.describe_directory(ROOT, inode);
        Ok(())
    }

    /// Adds a directory. A second entry for it only replaces its attributes: the directory keeps its names.
    fn add_directory(&mut self, slot: u32, entry: Entry) -> Result<(), Cause> {
        let inode = self.make_inode(entry)?;
        match self.directory(slot) {
            Some(dir) => self.describe_directory(dir, inode),
            None => {
                let number = self.new_inode(inode)?;
                self.point(slot, SlotTarget::Inode(number));
            }
        }
        Ok(())
    }

    fn describe_directory(&mut self, dir: u32, described: Inode) {
        if let Some(inode) = self.inodes.get_mut(dir as usize) {
            *inode = Inode { opaque: inode.opaque, ..described };
        }
    }

    /// Binds a link to the inode that its target refers to now, because a later entry may replace the target. A
    /// target that does not exist yet is looked for again when the layer is complete.
    fn add_hard_link(&mut self, path: &NormalPath, slot: u32, target: &[u8]) -> Result<(), Cause> {
        let mut target = NormalPath::of_link_target(target).map_err(Cause::LinkTarget)?;
        // A later entry may break a cycle of symbolic links.
        if let Some(followed) = self.follow(&target)? {
            target = followed;
        }
        let found = self.resolve(&target).map(|found| (found, self.target(found)));
        // A link to a link is bound to the current target of that link.
        if let Some((_, SlotTarget::Pending(link))) = found
            && let Some(link) = self.pending.get(link as usize)
        {
            target = link.target.clone();
        }
        match found {
            Some((found, _)) if found == slot && self.target(slot) != SlotTarget::Nothing => Ok(()),
            Some((_, SlotTarget::Foreign(link))) => {
                self.point(slot, SlotTarget::Foreign(link));
                Ok(())
            }
            Some((_, SlotTarget::Inode(inode))) => {
                if self.inode(inode).is_some_and(|inode| inode.kind == Kind::Directory) {
                    return Err(Cause::LinkToDirectory);
                }
                self.point(slot, SlotTarget::Inode(inode));
                Ok(())
            }
            _ => {
                self.hold(target.as_bytes().len() + path.as_bytes().len())?;
                let number = u32::try_from(self.pending.len()).map_err(|_| self.too_many())?;
                // A link to its own name, which the layer does not have yet, can only mean the file of a lower layer.
                let bound = if target == *path { SlotTarget::Foreign(number) } else { SlotTarget::Pending(number) };
                self.pending.push(PendingLink { path: path.clone(), target, slot });
                self.point(slot, bound);
                Ok(())
            }
        }
    }

    fn make_inode(&mut self, entry: Entry) -> Result<Inode, Cause> {
        self.hold(entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        let xattrs = self.xattrs.intern(entry.xattrs)?;
        let (kind, size, payload) = match entry.kind {
            EntryKind::Regular { size, segments } => (Kind::Regular, size, self.file_payload(size, &segments)?),
            EntryKind::Symlink { target } => {
                if target.is_empty() || target.len() > 4095 || target.contains(&0) {
                    return Err(Cause::SymlinkTarget);
                }
                let start = self.keep(&target)?;
                let length = u32::try_from(target.len()).map_err(|_| Cause::SymlinkTarget)?;
                (Kind::Symlink, u64::from(length), Payload::Symlink { start, length })
            }
            EntryKind::CharDevice { major, minor } => (Kind::CharDevice, 0, Payload::Device { major, minor }),
            EntryKind::BlockDevice { major, minor } => (Kind::BlockDevice, 0, Payload::Device { major, minor }),
            EntryKind::Fifo => (Kind::Fifo, 0, Payload::Nothing),
            EntryKind::Directory | EntryKind::HardLink { .. } => (Kind::Directory, 0, Payload::Nothing),
        };
        Ok(Inode {
            kind,
            // Linux has no permissions on symbolic links.
            permissions: if kind == Kind::Symlink { 0o777 } else { entry.permissions },
            uid: entry.uid,
            gid: entry.gid,
            size,
            mtime: entry.mtime,
            payload,
            xattrs,
            content_hash: 0,
            implicit: false,
            opaque: false,
            replaced: false,
        })
    }

    fn file_payload(&mut self, size: u64, segments: &[Segment]) -> Result<Payload, Cause> {
        if i64::try_from(size).is_err() {
            return Err(Cause::FileTooLarge);
        }
        match segments {
            [] if size == 0 => Ok(Payload::Whole(0)),
            [only] if only.file_offset == 0 && only.length == size => Ok(Payload::Whole(only.blob_offset)),
            _ => {
                let number = |length| u32::try_from(length).map_err(|_| self.too_many());
                let (first, count) = (number(self.segments.len())?, number(segments.len())?);
                number(self.segments.len() + segments.len())?;
                self.hold(size_of_val(segments))?;
                self.segments.extend_from_slice(segments);
                Ok(Payload::Sparse { first, count })
            }
        }
    }
}

/// Refuses a path with a marker before its last component, except for the directories of AUFS.
fn check_components(path: &[u8]) -> Result<(), Cause> {
    let mut components = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).enumerate();
    let ordinary = |(depth, name): (usize, &[u8])| depth == 0 && is_aufs(name) || Name::of(name) == Name::Ordinary;
    if components.all(ordinary) { Ok(()) } else { Err(Cause::BelowMarker) }
}

impl Sink for TreeBuilder {
    type Refusal = EntryRefused;

    fn entry(&mut self, entry: Entry) -> Result<(), EntryRefused> {
        let raw = entry.path.clone();
        let refused = |cause| EntryRefused::new(&raw, cause);
        let path = NormalPath::of_entry(&raw).map_err(|error| refused(Cause::Path(error)))?;
        self.add(&path, entry).map_err(refused)
    }

    fn content(&mut self, piece: &[u8]) {
        if self.open_file.is_some() {
            self.hasher.update(piece);
        }
    }

    fn content_end(&mut self) {
        if let Some(inode) = self.open_file.take().and_then(|number| self.inodes.get_mut(number as usize)) {
            inode.content_hash = self.hasher.digest128();
        }
    }
}
