//! Writes what was planned: inodes as a stream, blocks of content at their offsets.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;

use super::ErofsError;
use super::directory;
use super::format::{BLOCK, DataLayout, Inode, SLOT, Superblock};
use super::plan::{Place, Plan, Shape};
use super::xattrs::Xattrs;
use crate::{Attr, Kind, Observer, View};

pub(super) struct Writer<'a> {
    pub(super) view: &'a View,
    pub(super) plan: &'a Plan,
    pub(super) file: &'a File,
    pub(super) observer: &'a dyn Observer,
}

impl Writer<'_> {
    pub(super) fn write(&self, uuid: [u8; 16]) -> Result<(), ErofsError> {
        let length = u64::from(self.plan.blocks) * BLOCK;
        self.file.set_len(length).map_err(ErofsError::Write)?;
        let root = self.plan.places.first().map_or(0, |root| root.offset / SLOT);
        let root = u16::try_from(root).map_err(|_| ErofsError::TooLarge)?;
        let superblock = Superblock::new(root, self.plan.places.len() as u64, self.plan.blocks, uuid);
        let mut inodes = BufWriter::with_capacity(256 << 10, self.file);
        inodes.seek(SeekFrom::Start(0)).map_err(ErofsError::Write)?;
        inodes.write_all(&superblock.block()).map_err(ErofsError::Write)?;
        let mut at = BLOCK;
        for (number, place) in (1u32..).zip(&self.plan.places) {
            if self.observer.cancelled() {
                return Err(ErofsError::Cancelled);
            }
            let record = self.record(number, place)?;
            at = pad(&mut inodes, at, place.offset)?;
            inodes.write_all(&record).map_err(ErofsError::Write)?;
            at += record.len() as u64;
        }
        pad(&mut inodes, at, u64::from(self.plan.first_block) * BLOCK)?;
        inodes.flush().map_err(ErofsError::Write)
    }

    /// Returns an inode with its attributes and the content after it, and writes its whole blocks of content.
    fn record(&self, number: u32, place: &Place) -> Result<Vec<u8>, ErofsError> {
        let attr = self.view.attr(place.ino)?;
        let xattrs = Xattrs::of(self.view, place.ino)?;
        let shape = Shape::of(self.view, &attr, &xattrs)?;
        let mut record = inode(number, place, &attr, &xattrs, shape).as_bytes().to_vec();
        record.extend_from_slice(&xattrs.bytes);
        match attr.kind {
            Kind::Regular => self.regular(place, shape, &mut record)?,
            Kind::Symlink => self.bytes(place, shape, self.view.readlink(place.ino)?, &mut record)?,
            Kind::Directory => {
                let names = directory::names(self.view, place.ino)?;
                let content = directory::content(&names, |ino| self.plan.number(ino));
                self.bytes(place, shape, &content, &mut record)?;
            }
            _ => {}
        }
        Ok(record)
    }

    fn regular(&self, place: &Place, shape: Shape, record: &mut Vec<u8>) -> Result<(), ErofsError> {
        let in_blocks = shape.size - shape.inline;
        if in_blocks > 0 {
            let mut copied = |bytes| self.observer.progress(bytes);
            let at = u64::from(place.block) * BLOCK;
            self.view.copy_content(place.ino, 0, in_blocks, self.file, at, &mut copied)?;
        }
        if shape.inline > 0 {
            let mut rest = vec![0; usize::try_from(shape.inline).unwrap_or_default()];
            self.view.read(place.ino, in_blocks, &mut rest)?;
            record.extend_from_slice(&rest);
            self.observer.progress(shape.inline);
        }
        Ok(())
    }

    fn bytes(&self, place: &Place, shape: Shape, content: &[u8], record: &mut Vec<u8>) -> Result<(), ErofsError> {
        let inline = usize::try_from(shape.inline).unwrap_or_default();
        let (in_blocks, rest) = content.split_at_checked(content.len().saturating_sub(inline)).unwrap_or_default();
        self.file.write_all_at(in_blocks, u64::from(place.block) * BLOCK).map_err(ErofsError::Write)?;
        record.extend_from_slice(rest);
        Ok(())
    }
}

/// Writes zeros from `at` to `offset`, and returns `offset`.
fn pad(out: &mut impl Write, at: u64, offset: u64) -> Result<u64, ErofsError> {
    let gap = usize::try_from(offset.saturating_sub(at)).unwrap_or_default();
    out.write_all(&vec![0; gap]).map_err(ErofsError::Write)?;
    Ok(offset)
}

fn inode(number: u32, place: &Place, attr: &Attr, xattrs: &Xattrs, shape: Shape) -> Inode {
    let is_device = matches!(attr.kind, Kind::CharDevice | Kind::BlockDevice);
    let mode = attr.kind.mode_bits() | attr.permissions;
    Inode {
        format: Inode::format(if is_device { DataLayout::Plain } else { shape.layout }),
        xattr_count: xattrs.count().into(),
        mode: u16::try_from(mode).unwrap_or_default().into(),
        reserved: 0.into(),
        size: shape.size.into(),
        place: if is_device { attr.device_number() } else { place.block }.into(),
        short_number: number.into(),
        uid: attr.uid.into(),
        gid: attr.gid.into(),
        mtime: attr.mtime.seconds.into(),
        mtime_nanoseconds: attr.mtime.nanoseconds.into(),
        nlink: attr.nlink.into(),
        reserved2: [0; 16],
    }
}
