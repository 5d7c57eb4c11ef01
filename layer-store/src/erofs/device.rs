//! A base as a read-only block device: metadata from the map, content from the layers' tars.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::{BlockMap, Extent};
use crate::View;

/// The most bytes between two extents of one tar that are read together. Between two small files of a tar there are
/// padding and a header or two.
const GAP_MAX: u64 = 4096;

/// A base as a read-only block device with an EROFS file system. It shows the same bytes as the image that
/// [`View::write_erofs`] writes, and stores no content: each read goes to the layers' tars.
///
/// Every method takes `&self` and may be called from any number of threads.
#[derive(Debug)]
pub struct BlockDevice {
    view: Arc<View>,
    map: BlockMap,
    tar_reads: AtomicU64,
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

impl BlockDevice {
    pub(crate) fn new(view: Arc<View>, map: BlockMap) -> Self {
        Self { view, map, tar_reads: AtomicU64::new(0) }
    }

    /// Returns the length in bytes: a multiple of 4,096.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.map.length()
    }

    /// Returns the length in bytes of the file system's metadata, which the device begins with.
    #[must_use]
    pub fn metadata_length(&self) -> u64 {
        self.map.metadata().len() as u64
    }

    /// Returns how often a layer's tar was read for this device. One read of the device needs none for metadata, and one for
    /// all content that is close together in one tar.
    #[must_use]
    pub fn tar_reads(&self) -> u64 {
        self.tar_reads.load(Ordering::Relaxed)
    }

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// A tar that this range needs cannot be read, or the range ends after the device.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(buffer, offset, Wait::Yes)
    }

    /// Does the same if all of it is in the host's page cache. Returns whether it was; if not, the content of `buffer` is
    /// unspecified. Does not wait for a disk.
    ///
    /// # Errors
    /// As for [`BlockDevice::read_at`].
    pub fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        match self.read(buffer, offset, Wait::No) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&self, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= self.length());
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let metadata = usize::try_from(offset).ok().and_then(|at| self.map.metadata().get(at..)).unwrap_or_default();
        let (first, content) = buffer.split_at_mut(metadata.len().min(buffer.len()));
        first.copy_from_slice(metadata.get(..first.len()).unwrap_or_default());
        if content.is_empty() {
            return Ok(());
        }
        content.fill(0);
        let start = offset + first.len() as u64;
        let mut group: Vec<Extent> = Vec::new();
        for extent in self.map.extents(start..end) {
            if group.last().is_some_and(|last| !is_next_to(last, &extent)) {
                self.read_group(&group, content, start, wait)?;
                group.clear();
            }
            group.push(extent);
        }
        self.read_group(&group, content, start, wait)
    }

    /// Reads extents of one tar that follow each other there, with one read.
    fn read_group(&self, group: &[Extent], content: &mut [u8], start: u64, wait: Wait) -> io::Result<()> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
        if group.len() > 1 {
            let mut together = vec![0; length(last.tar_end() - first.tar_offset)];
            match self.read_tar(first.layer, &mut together, first.tar_offset, wait) {
                Ok(()) => {
                    for extent in group {
                        let from = length(extent.tar_offset - first.tar_offset);
                        let found = together.get(from..from + length(extent.length)).unwrap_or_default();
                        part(content, extent, start)?.copy_from_slice(found);
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // What is between the extents may be what cannot be read.
                Err(_) => {}
            }
        }
        group
            .iter()
            .try_for_each(|extent| self.read_tar(extent.layer, part(content, extent, start)?, extent.tar_offset, wait))
    }

    fn read_tar(&self, layer: u32, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<()> {
        let tar = self.view.tar(layer).ok_or(io::ErrorKind::InvalidData)?;
        self.tar_reads.fetch_add(1, Ordering::Relaxed);
        let read = match wait {
            Wait::Yes => tar.read_exact_at(buffer, offset),
            Wait::No => tar.read_cached_at(buffer, offset),
        };
        read.map_err(|cause| match (cause.kind(), self.view.layers().nth(layer as usize)) {
            (io::ErrorKind::WouldBlock, _) | (_, None) => cause,
            (kind, Some(layer)) => io::Error::new(kind, format!("layer {layer}: {cause}")),
        })
    }
}

/// Whether two extents are so close together in one tar that they are read together.
fn is_next_to(last: &Extent, next: &Extent) -> bool {
    let gap = next.tar_offset.checked_sub(last.tar_end());
    last.layer == next.layer && gap.is_some_and(|gap| gap <= GAP_MAX)
}

/// Returns the part of a buffer that begins at `start` of the device where an extent belongs.
fn part<'a>(content: &'a mut [u8], extent: &Extent, start: u64) -> io::Result<&'a mut [u8]> {
    let from = length(extent.device_offset - start);
    content.get_mut(from..from + length(extent.length)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the length of something that is in a buffer.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
