//! Plans where everything goes in an image, before the first byte is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::ErofsError;
use super::directory;
use super::format::{BLOCK, DataLayout, INODE, SLOT};
use super::xattrs::Xattrs;
use crate::{Attr, Ino, Kind, Observer, View};

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
    fn of_file(size: u64, xattr_bytes: u64) -> Self {
        let (blocks, length) = (size.div_ceil(BLOCK), INODE + xattr_bytes);
        Self { layout: DataLayout::Plain, size, blocks, inline: 0, length }
    }

    fn new(size: u64, xattr_bytes: u64) -> Self {
        let head = INODE + xattr_bytes;
        let rest = size % BLOCK;
        if rest > 0 && head + rest <= BLOCK {
            return Self { layout: DataLayout::Inline, size, blocks: size / BLOCK, inline: rest, length: head + rest };
        }
        Self { layout: DataLayout::Plain, size, blocks: size.div_ceil(BLOCK), inline: 0, length: head }
    }

    /// Returns the shape of an inode of a view.
    pub(super) fn of(view: &View, attr: &Attr, xattrs: &Xattrs) -> Result<Self, ErofsError> {
        let xattr_bytes = xattrs.bytes.len() as u64;
        Ok(match attr.kind {
            Kind::Regular => Self::of_file(attr.size, xattr_bytes),
            Kind::Symlink => Self::new(attr.size, xattr_bytes),
            Kind::Directory => Self::new(directory::size(&directory::names(view, attr.ino)?), xattr_bytes),
            _ => Self::new(0, xattr_bytes),
        })
    }

    /// Returns the first offset from `free` on at which neither the inode nor the content after it crosses into another
    /// block.
    fn place(&self, free: u64) -> u64 {
        let whole = if self.inline > 0 { self.length } else { INODE };
        if free % BLOCK + whole > BLOCK { free.next_multiple_of(BLOCK) } else { free }
    }
}

/// The plan of an image.
#[derive(Debug)]
pub(super) struct Plan {
    /// Every inode, in the order of their offsets; the root is the first.
    pub(super) places: Vec<Place>,
    numbers: HashMap<Ino, u64>,
    /// The block at which the inodes end and the blocks of directories and symbolic links begin.
    pub(super) first_block: u32,
    /// The block at which the metadata ends and the content of files begins.
    pub(super) content_block: u32,
    /// The total number of blocks.
    pub(super) blocks: u32,
    /// Extended attributes that the image cannot store.
    pub(super) xattrs_left_out: u64,
}

impl Plan {
    /// Plans an image of a whole view. Inodes are in the order of a walk: all children of a directory are contiguous.
    pub(super) fn of(view: &View, observer: &dyn Observer) -> Result<Self, ErofsError> {
        let mut places = vec![Place { ino: Ino::ROOT, offset: 0, block: 0, is_file: false }];
        let mut numbers = HashMap::from([(Ino::ROOT, 0)]);
        let mut blocks: Vec<u64> = Vec::new();
        // Block 0 is for the superblock.
        let mut free = BLOCK;
        let mut xattrs_left_out = 0;
        while let Some(place) = places.get(blocks.len()) {
            if blocks.len().is_multiple_of(1024) && observer.cancelled() {
                return Err(ErofsError::Cancelled);
            }
            let ino = place.ino;
            let attr = view.attr(ino)?;
            let xattrs = Xattrs::of(view, ino)?;
            xattrs_left_out += xattrs.left_out;
            let shape = Shape::of(view, &attr, &xattrs)?;
            let offset = shape.place(free);
            free = (offset + shape.length).next_multiple_of(SLOT);
            if let Some(place) = places.get_mut(blocks.len()) {
                place.offset = offset;
                place.is_file = attr.kind == Kind::Regular;
            }
            numbers.insert(ino, offset / SLOT);
            blocks.push(shape.blocks);
            if attr.kind == Kind::Directory {
                for entry in view.entries(ino, 0)? {
                    if let Entry::Vacant(unseen) = numbers.entry(entry.ino) {
                        unseen.insert(0);
                        places.push(Place { ino: entry.ino, offset: 0, block: 0, is_file: false });
                    }
                }
            }
        }
        let first_block = block_number(free.div_ceil(BLOCK))?;
        let content_block = assign(&mut places, &blocks, first_block, false)?;
        let end = assign(&mut places, &blocks, content_block, true)?;
        Ok(Self { places, numbers, first_block, content_block, blocks: end, xattrs_left_out })
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
        let whole = Shape::new(2 * BLOCK, 0);
        assert_eq!((whole.layout, whole.blocks, whole.length), (DataLayout::Plain, 2, INODE));
        let rest = Shape::new(2 * BLOCK + 5, 20);
        assert_eq!((rest.layout, rest.blocks, rest.inline, rest.length), (DataLayout::Inline, 2, 5, 89));
        let most = Shape::new(BLOCK - INODE, 0);
        assert_eq!((most.layout, most.blocks, most.length), (DataLayout::Inline, 0, BLOCK));
        let more = Shape::new(BLOCK - INODE + 1, 0);
        assert_eq!((more.layout, more.blocks, more.length), (DataLayout::Plain, 1, INODE));
        let empty = Shape::new(0, 0);
        assert_eq!((empty.layout, empty.blocks, empty.length), (DataLayout::Plain, 0, INODE));
    }

    #[test]
    fn no_content_of_a_file_is_in_the_metadata() {
        for size in [0, 1, BLOCK - INODE, BLOCK, BLOCK + 1, 9 * BLOCK + 5] {
            let file = Shape::of_file(size, 20);
            assert_eq!((file.layout, file.blocks), (DataLayout::Plain, size.div_ceil(BLOCK)));
            assert_eq!((file.inline, file.length), (0, INODE + 20), "{size} bytes");
        }
    }

    #[test]
    fn nothing_that_must_be_whole_crosses_a_block() {
        assert_eq!(Shape::new(100, 0).place(BLOCK - 160), BLOCK);
        assert_eq!(Shape::new(96, 0).place(BLOCK - 160), BLOCK - 160);
        assert_eq!(Shape::new(0, 0).place(BLOCK - 32), BLOCK);
        assert_eq!(Shape::new(0, 5000).place(BLOCK - 64), BLOCK - 64, "attributes may cross");
    }
}
