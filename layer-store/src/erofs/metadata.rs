//! The first part of an image: superblock, inodes, directories and symbolic links, written as one stream.

use std::io::{self, Write};

use zerocopy::IntoBytes;

use super::ErofsError;
use super::directory;
use super::format::{BLOCK, COMPACT_INODE, CompactInode, DataLayout, Inode, SLOT, Superblock};
use super::plan::{Place, Plan, Shape};
use super::xattrs::Xattrs;
use crate::{Attr, Kind, Observer, View};

/// Writes the metadata of a planned image.
pub(super) struct MetadataWriter<'a> {
    pub(super) view: &'a View,
    pub(super) plan: &'a Plan,
    pub(super) observer: &'a dyn Observer,
}

impl MetadataWriter<'_> {
    /// Writes exactly [`Plan::metadata_bytes`] bytes.
    pub(super) fn write(&self, uuid: [u8; 16], out: &mut impl Write) -> Result<(), ErofsError> {
        let root = self.plan.places.first().map_or(0, |root| root.offset / SLOT);
        let root = u16::try_from(root).map_err(|_| ErofsError::TooLarge)?;
        let Plan { blocks, xattr_block, directory_block, time, .. } = *self.plan;
        let superblock = Superblock::new(root, self.plan.places.len() as u64, blocks, xattr_block, uuid, time);
        put(out, &superblock.block())?;
        let mut places: Vec<&Place> = self.plan.places.iter().collect();
        places.sort_unstable_by_key(|place| place.offset);
        let mut at = BLOCK;
        for (number, place) in (1u32..).zip(places) {
            if self.observer.cancelled() {
                return Err(ErofsError::Cancelled);
            }
            pad(out, at, place.offset)?;
            let record = self.record(number, place)?;
            put(out, &record)?;
            at = place.offset + record.len() as u64;
        }
        pad(out, at, u64::from(xattr_block) * BLOCK)?;
        let shared = self.plan.shared.bytes();
        put(out, shared)?;
        pad(out, u64::from(xattr_block) * BLOCK + shared.len() as u64, u64::from(directory_block) * BLOCK)?;
        for place in self.plan.places.iter().filter(|place| place.block > 0 && !place.is_file) {
            let (_, _, shape) = self.shape(place)?;
            let content = self.content(place)?;
            let in_blocks = content.get(..in_blocks(shape, &content)).unwrap_or_default();
            put(out, in_blocks)?;
            pad(out, in_blocks.len() as u64, shape.blocks * BLOCK)?;
        }
        Ok(())
    }

    fn shape(&self, place: &Place) -> Result<(Attr, Xattrs, Shape), ErofsError> {
        let attr = self.view.attr(place.ino)?;
        let xattrs = Xattrs::of(self.view, place.ino, &self.plan.shared)?;
        let shape = Shape::of(self.view, &attr, &xattrs, self.plan.time)?;
        Ok((attr, xattrs, shape))
    }

    /// Returns an inode with its attributes and the content after it.
    fn record(&self, number: u32, place: &Place) -> Result<Vec<u8>, ErofsError> {
        let (attr, xattrs, shape) = self.shape(place)?;
        let mut record = inode(number, place, &attr, &xattrs, shape);
        record.extend_from_slice(&xattrs.bytes);
        if shape.inline > 0 {
            let content = self.content(place)?;
            record.extend_from_slice(content.get(in_blocks(shape, &content)..).unwrap_or_default());
        }
        Ok(record)
    }

    /// Returns the content of a directory or a symbolic link.
    fn content(&self, place: &Place) -> Result<Vec<u8>, ErofsError> {
        Ok(match self.view.attr(place.ino)?.kind {
            Kind::Symlink => self.view.readlink(place.ino)?.to_vec(),
            Kind::Directory => {
                directory::content(&directory::names(self.view, place.ino)?, |ino| self.plan.number(ino))
            }
            _ => Vec::new(),
        })
    }
}

/// Returns how many bytes of the content are in whole blocks.
fn in_blocks(shape: Shape, content: &[u8]) -> usize {
    content.len().saturating_sub(usize::try_from(shape.inline).unwrap_or_default())
}

fn put(out: &mut impl Write, bytes: &[u8]) -> Result<(), ErofsError> {
    out.write_all(bytes).map_err(ErofsError::Write)
}

/// Writes zeros from `at` to `offset`.
fn pad(out: &mut impl Write, at: u64, offset: u64) -> Result<(), ErofsError> {
    let gap = offset.saturating_sub(at);
    io::copy(&mut io::Read::take(io::repeat(0), gap), out).map(|_| ()).map_err(ErofsError::Write)
}

/// Returns an inode, compact or extended.
fn inode(number: u32, place: &Place, attr: &Attr, xattrs: &Xattrs, shape: Shape) -> Vec<u8> {
    let is_device = matches!(attr.kind, Kind::CharDevice | Kind::BlockDevice);
    let layout = if is_device { DataLayout::Plain } else { shape.layout };
    let mode = u16::try_from(attr.kind.mode_bits() | attr.permissions).unwrap_or_default();
    let content = if is_device { attr.device_number() } else { place.block };
    if shape.inode == COMPACT_INODE {
        // All of these fit, or it would not be compact.
        let short = |number: u32| u16::try_from(number).unwrap_or_default().into();
        let compact = CompactInode {
            format: CompactInode::format(layout),
            xattr_count: xattrs.count().into(),
            mode: mode.into(),
            nlink: short(attr.nlink),
            size: u32::try_from(shape.size).unwrap_or_default().into(),
            reserved: 0.into(),
            place: content.into(),
            short_number: number.into(),
            uid: short(attr.uid),
            gid: short(attr.gid),
            reserved2: 0.into(),
        };
        return compact.as_bytes().to_vec();
    }
    let extended = Inode {
        format: Inode::format(layout),
        xattr_count: xattrs.count().into(),
        mode: mode.into(),
        reserved: 0.into(),
        size: shape.size.into(),
        place: content.into(),
        short_number: number.into(),
        uid: attr.uid.into(),
        gid: attr.gid.into(),
        mtime: attr.mtime.seconds.into(),
        mtime_nanoseconds: attr.mtime.nanoseconds.into(),
        nlink: attr.nlink.into(),
        reserved2: [0; 16],
    };
    extended.as_bytes().to_vec()
}
