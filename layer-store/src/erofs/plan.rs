//! Plans where everything goes in an image, before the first byte is written.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::ErofsError;
use super::directory;
use super::format::{BLOCK, COMPACT_INODE, DataLayout, INODE, SLOT};
use super::xattrs::{Counts, Shared, Xattrs};
use crate::{Attr, Ino, Kind, Observer, Timestamp, View};

/// Where one inode and its content are in the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) ino: Ino,
    /// Its offset in the image: a multiple of [`SLOT`].
    pub(super) offset: u64,
    /// The first of its whole blocks; 0 if it has none.
    pub(super) block: u32,
    /// Whether it is a regular file.
    pub(super) is_file: bool,
}

/// The shape of one inode: how its content is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) layout: DataLayout,
    /// Bytes of the inode alone: [`INODE`] or [`COMPACT_INODE`].
    pub(super) inode: u64,
    /// Bytes of content.
    pub(super) size: u64,
    /// Whole blocks of content.
    pub(super) blocks: u64,
    /// Bytes of content after the inode.
    pub(super) inline: u64,
    /// Bytes of the inode, its attributes and the content after them.
    pub(super) length: u64,
}

impl Shape {
    /// Returns the shape of a regular file, whose content is all in blocks.
    fn of_file(size: u64, inode: u64, xattr_bytes: u64) -> Self {
        let (blocks, length) = (size.div_ceil(BLOCK), inode + xattr_bytes);
        Self { layout: DataLayout::Plain, inode, size, blocks, inline: 0, length }
    }

    fn new(size: u64, inode: u64, xattr_bytes: u64) -> Self {
        let length = inode + xattr_bytes;
        let rest = size % BLOCK;
        if rest > 0 && length + rest <= BLOCK {
            let (blocks, length) = (size / BLOCK, length + rest);
            return Self { layout: DataLayout::Inline, inode, size, blocks, inline: rest, length };
        }
        Self { layout: DataLayout::Plain, inode, size, blocks: size.div_ceil(BLOCK), inline: 0, length }
    }

    /// Returns the shape of an inode of a view. `time` is the time that compact inodes have.
    pub(super) fn of(view: &View, attr: &Attr, xattrs: &Xattrs, time: Timestamp) -> Result<Self, ErofsError> {
        let size = match attr.kind {
            Kind::Regular | Kind::Symlink => attr.size,
            Kind::Directory => directory::size(&directory::names(view, attr.ino)?),
            _ => 0,
        };
        let is_compact = attr.mtime == time && may_be_compact(attr) && u32::try_from(size).is_ok();
        let inode = if is_compact { COMPACT_INODE } else { INODE };
        let shape = if attr.kind == Kind::Regular { Self::of_file } else { Self::new };
        Ok(shape(size, inode, xattrs.bytes.len() as u64))
    }

    /// Returns the first offset from `free` on at which neither the inode nor the content after it crosses into another
    /// block.
    fn place(&self, free: u64) -> u64 {
        let whole = if self.inline > 0 { self.length } else { self.inode };
        if free % BLOCK + whole > BLOCK { free.next_multiple_of(BLOCK) } else { free }
    }
}

/// Whether the numbers of an inode fit into a compact one, which has no time of its own.
fn may_be_compact(attr: &Attr) -> bool {
    let short = |number: u32| u16::try_from(number).is_ok();
    short(attr.uid) && short(attr.gid) && short(attr.nlink) && attr.mtime.seconds >= 0
}

/// How many inodes that may be compact have a time.
#[derive(Default)]
struct Times(HashMap<Timestamp, u64>);

impl Times {
    fn add(&mut self, attr: &Attr) {
        if may_be_compact(attr) {
            *self.0.entry(attr.mtime).or_default() += 1;
        }
    }

    /// Returns the time that most of them have, and of several the earliest.
    fn most_common(&self) -> Timestamp {
        let most = self.0.iter().max_by_key(|&(&time, &count)| (count, Reverse(time)));
        most.map(|(time, _)| *time).unwrap_or_default()
    }
}

/// The part of an image that inodes are in, while they are placed.
#[derive(Debug)]
struct Room {
    /// Everything from here on is free.
    free: u64,
    /// What was left free because an inode must not cross into another block: its length and its start.
    gaps: BTreeSet<(u64, u64)>,
}

impl Room {
    fn new() -> Self {
        // Block 0 is for the superblock.
        Self { free: BLOCK, gaps: BTreeSet::new() }
    }

    /// Returns the offset of an inode: in the smallest gap that it fits into, or after all others.
    fn take(&mut self, shape: &Shape) -> u64 {
        if let Some(gap) = self.gaps.range((shape.length, 0)..).next().copied() {
            self.gaps.remove(&gap);
            let (length, start) = gap;
            self.keep((start + shape.length).next_multiple_of(SLOT), start + length);
            return start;
        }
        let offset = shape.place(self.free);
        self.keep(self.free, offset);
        self.free = (offset + shape.length).next_multiple_of(SLOT);
        offset
    }

    fn keep(&mut self, start: u64, end: u64) {
        if end > start {
            self.gaps.insert((end - start, start));
        }
    }
}

/// The plan of an image.
#[derive(Debug)]
pub(super) struct Plan {
    /// Every inode, in the order of a walk; the root is the first, and has the lowest offset.
    pub(super) places: Vec<Place>,
    numbers: HashMap<Ino, u64>,
    /// Extended attributes that several inodes have.
    pub(super) shared: Shared,
    /// The block at which the inodes end and shared extended attributes begin.
    pub(super) xattr_block: u32,
    /// The block at which those end and the blocks of directories and symbolic links begin.
    pub(super) directory_block: u32,
    /// The block at which the metadata ends and the content of files begins.
    pub(super) content_block: u32,
    /// The total number of blocks.
    pub(super) blocks: u32,
    /// The time that compact inodes have.
    pub(super) time: Timestamp,
    /// Extended attributes that the image cannot store.
    pub(super) xattrs_left_out: u64,
}

impl Plan {
    /// Plans an image of a whole view. Inodes are in the order of a walk: all children of a directory are contiguous.
    pub(super) fn of(view: &View, observer: &dyn Observer) -> Result<Self, ErofsError> {
        let Walked { mut places, mut numbers, time, shared } = Walked::of(view, observer)?;
        let mut blocks: Vec<u64> = Vec::with_capacity(places.len());
        let mut room = Room::new();
        let mut xattrs_left_out = 0;
        for place in &mut places {
            check_cancelled(blocks.len(), observer)?;
            let attr = view.attr(place.ino)?;
            let xattrs = Xattrs::of(view, place.ino, &shared)?;
            xattrs_left_out += xattrs.left_out;
            let shape = Shape::of(view, &attr, &xattrs, time)?;
            place.offset = room.take(&shape);
            numbers.insert(place.ino, place.offset / SLOT);
            blocks.push(shape.blocks);
        }
        let xattr_block = block_number(room.free.div_ceil(BLOCK))?;
        let directory_block = block_number(u64::from(xattr_block) + (shared.bytes().len() as u64).div_ceil(BLOCK))?;
        let content_block = assign(&mut places, &blocks, directory_block, false)?;
        let blocks = assign(&mut places, &blocks, content_block, true)?;
        Ok(Self { places, numbers, shared, xattr_block, directory_block, content_block, blocks, time, xattrs_left_out })
    }

    /// Returns the length of the image in bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK
    }

    /// Returns the length in bytes of the part before the content of files.
    pub(super) fn metadata_bytes(&self) -> u64 {
        u64::from(self.content_block) * BLOCK
    }

    /// Returns the number of an inode in the image.
    pub(super) fn number(&self, ino: Ino) -> u64 {
        self.numbers.get(&ino).copied().unwrap_or_default()
    }
}

/// All inodes of a view in the order of a walk.
struct Walked {
    /// They are not placed yet.
    places: Vec<Place>,
    numbers: HashMap<Ino, u64>,
    /// The time that most of them have.
    time: Timestamp,
    /// The extended attributes that several of them have.
    shared: Shared,
}

impl Walked {
    fn of(view: &View, observer: &dyn Observer) -> Result<Self, ErofsError> {
        let unplaced = |ino| Place { ino, offset: 0, block: 0, is_file: false };
        let mut places = vec![unplaced(Ino::ROOT)];
        let mut numbers = HashMap::from([(Ino::ROOT, 0)]);
        let (mut times, mut attributes) = (Times::default(), Counts::default());
        let mut walked = 0;
        while let Some(place) = places.get_mut(walked) {
            check_cancelled(walked, observer)?;
            let ino = place.ino;
            let attr = view.attr(ino)?;
            place.is_file = attr.kind == Kind::Regular;
            times.add(&attr);
            attributes.add(view, ino)?;
            if attr.kind == Kind::Directory {
                for entry in view.entries(ino, 0)? {
                    if let Entry::Vacant(unseen) = numbers.entry(entry.ino) {
                        unseen.insert(0);
                        places.push(unplaced(entry.ino));
                    }
                }
            }
            walked += 1;
        }
        Ok(Self { places, numbers, time: times.most_common(), shared: attributes.shared() })
    }
}

/// Looks after every so many inodes whether the work is cancelled.
fn check_cancelled(done: usize, observer: &dyn Observer) -> Result<(), ErofsError> {
    if done.is_multiple_of(1024) && observer.cancelled() { Err(ErofsError::Cancelled) } else { Ok(()) }
}

/// Assigns whole blocks from `first` on to the regular files, or to everything else. Returns the block after them.
fn assign(places: &mut [Place], blocks: &[u64], first: u32, files: bool) -> Result<u32, ErofsError> {
    let mut next = u64::from(first);
    for (place, &blocks) in places.iter_mut().zip(blocks) {
        if blocks > 0 && place.is_file == files {
            place.block = block_number(next)?;
            next = next.saturating_add(blocks);
        }
    }
    block_number(next)
}

fn block_number(block: u64) -> Result<u32, ErofsError> {
    u32::try_from(block).map_err(|_| ErofsError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_directory_is_after_its_inode_if_it_fits() {
        let whole = Shape::new(2 * BLOCK, INODE, 0);
        assert_eq!((whole.layout, whole.blocks, whole.length), (DataLayout::Plain, 2, INODE));
        let rest = Shape::new(2 * BLOCK + 5, INODE, 20);
        assert_eq!((rest.layout, rest.blocks, rest.inline, rest.length), (DataLayout::Inline, 2, 5, 89));
        let most = Shape::new(BLOCK - INODE, INODE, 0);
        assert_eq!((most.layout, most.blocks, most.length), (DataLayout::Inline, 0, BLOCK));
        let more = Shape::new(BLOCK - INODE + 1, INODE, 0);
        assert_eq!((more.layout, more.blocks, more.length), (DataLayout::Plain, 1, INODE));
        let empty = Shape::new(0, INODE, 0);
        assert_eq!((empty.layout, empty.blocks, empty.length), (DataLayout::Plain, 0, INODE));
    }

    #[test]
    fn compact_inodes_have_the_time_of_most_of_those_whose_numbers_fit() {
        let time = |seconds| Timestamp { seconds, nanoseconds: 5 };
        let attr = |seconds, uid, nlink| Attr {
            ino: Ino::ROOT,
            kind: Kind::Regular,
            permissions: 0o644,
            nlink,
            uid,
            gid: 0,
            size: 0,
            blocks: 0,
            mtime: time(seconds),
            rdev_major: 0,
            rdev_minor: 0,
        };
        let common = |attrs: &[Attr]| {
            let mut times = Times::default();
            attrs.iter().for_each(|attr| times.add(attr));
            times.most_common()
        };
        assert_eq!(common(&[]), Timestamp::default());
        assert_eq!(common(&[attr(7, 0, 1), attr(9, 0, 1), attr(9, 65_535, 65_535)]), time(9));
        assert_eq!(common(&[attr(9, 0, 1), attr(7, 0, 1), attr(8, 0, 1)]), time(7), "the earliest of several");
        let unfit = [attr(7, 0, 1), attr(9, 65_536, 1), attr(9, 0, 65_536), attr(-1, 0, 1), attr(-1, 0, 1)];
        assert_eq!(common(&unfit), time(7));
    }

    #[test]
    fn no_content_of_a_file_is_in_the_metadata() {
        for size in [0, 1, BLOCK - INODE, BLOCK, BLOCK + 1, 9 * BLOCK + 5] {
            let file = Shape::of_file(size, INODE, 20);
            assert_eq!((file.layout, file.blocks), (DataLayout::Plain, size.div_ceil(BLOCK)));
            assert_eq!((file.inline, file.length), (0, INODE + 20), "{size} bytes");
        }
    }

    #[test]
    fn what_an_inode_leaves_free_is_given_to_later_ones() {
        let (directory, file) = (Shape::new(2500, COMPACT_INODE, 0), Shape::of_file(1, COMPACT_INODE, 0));
        let mut room = Room::new();
        let places: Vec<u64> = [&directory, &directory, &file, &directory, &file].map(|shape| room.take(shape)).into();
        let after = BLOCK + 2560;
        assert_eq!(places, [BLOCK, 2 * BLOCK, after, 3 * BLOCK, after + COMPACT_INODE]);
        // 1536 - 64 bytes are left in the first gap, and 1536 in the second.
        let more = std::iter::repeat_with(|| room.take(&file)).take_while(|place| *place < 2 * BLOCK);
        assert_eq!(more.count() as u64, (1536 - 64) / COMPACT_INODE, "a gap is filled whole before the next is begun");
        let long = Shape::new(0, COMPACT_INODE, 9000);
        assert_eq!(room.take(&long), 3 * BLOCK + 2560, "attributes cross a block");
    }

    #[test]
    fn gaps_that_nothing_fits_into_do_not_hide_others() {
        // 1792 bytes are left after each directory: 18 times 96, and 64.
        let (directory, file) = (Shape::new(2248, COMPACT_INODE, 0), Shape::of_file(1, INODE, 16));
        let mut room = Room::new();
        for _ in 0..100 {
            room.take(&directory);
        }
        let end = room.free;
        let inside = std::iter::repeat_with(|| room.take(&file)).take_while(|place| *place < end).count();
        assert_eq!(inside, 99 * 18);
    }

    #[test]
    fn nothing_that_must_be_whole_crosses_a_block() {
        assert_eq!(Shape::new(100, INODE, 0).place(BLOCK - 160), BLOCK);
        assert_eq!(Shape::new(96, INODE, 0).place(BLOCK - 160), BLOCK - 160);
        assert_eq!(Shape::new(0, INODE, 0).place(BLOCK - 32), BLOCK);
        assert_eq!(Shape::new(0, COMPACT_INODE, 0).place(BLOCK - 32), BLOCK - 32);
        assert_eq!(Shape::new(0, INODE, 5000).place(BLOCK - 64), BLOCK - 64, "attributes may cross");
    }
}
