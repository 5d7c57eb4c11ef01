//! Reads file content from layers.

use std::io;

use super::{Node, View, ViewError, ViewLayer};
use crate::layer::Segments;
use crate::sharing::Blob;
use crate::{Ino, Kind};

impl View {
    /// Calls `visit` with the layer, counted from the bottom, and every run of a regular file's stored content, in order.
    pub(crate) fn each_run_of(&self, ino: Ino, mut visit: impl FnMut(u32, Run)) -> Result<(), ViewError> {
        let Node::Record { layer, number, index, inode } = self.node(ino)? else {
            return Err(ViewError::NotRegular(ino));
        };
        if inode.kind() != Kind::Regular {
            return Err(ViewError::NotRegular(ino));
        }
        let size = inode.size.get();
        let visited = ViewLayer::each_run(index.segments(inode), size, |run| {
            let length = run.length.min(size.saturating_sub(run.file_offset));
            if length > 0 {
                visit(layer, Run { length, ..run });
            }
            Ok(())
        });
        visited.map_err(|cause| ViewError::Damaged { layer: index.diff_id(), path: index.path_of(number), cause })
    }

    /// Returns the tar of a layer, counted from the bottom.
    pub(crate) fn tar(&self, layer: u32) -> Option<&Blob> {
        self.layers.get(layer as usize).map(|layer| &*layer.blob)
    }
}

impl ViewLayer {
    /// Fills `buffer` with a file's content from `offset`. The file must have that many bytes from there.
    pub(crate) fn read(&self, segments: Segments<'_>, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let runs = match segments {
            Segments::Whole(start) => {
                let at = start.checked_add(offset).ok_or(io::ErrorKind::InvalidData)?;
                return self.blob.read_exact_at(buffer, at);
            }
            Segments::Runs(runs) => runs,
        };
        buffer.fill(0);
        let end = offset.saturating_add(buffer.len() as u64);
        let first = runs.partition_point(|run| run.file_offset.get() + run.length.get() <= offset);
        for run in runs.get(first..).unwrap_or_default() {
            let (run_start, run_end) = (run.file_offset.get(), run.file_offset.get() + run.length.get());
            if run_start >= end {
                break;
            }
            let (from, to) = (run_start.max(offset), run_end.min(end));
            let within = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
            let part = buffer.get_mut(within(from)..within(to)).ok_or(io::ErrorKind::InvalidData)?;
            self.blob.read_exact_at(part, run.blob_offset.get() + (from - run_start))?;
        }
        Ok(())
    }

    /// Calls `visit` with the offset in the tar and the length of every run of a file's stored content, in order.
    pub(crate) fn each_stored_run(
        segments: Segments<'_>,
        size: u64,
        mut visit: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        Self::each_run(segments, size, |run| visit(run.blob_offset, run.length))
    }

    /// Calls `visit` with every run of a file's stored content, in order.
    pub(crate) fn each_run(
        segments: Segments<'_>,
        size: u64,
        mut visit: impl FnMut(Run) -> io::Result<()>,
    ) -> io::Result<()> {
        match segments {
            Segments::Whole(start) => visit(Run { file_offset: 0, blob_offset: start, length: size }),
            Segments::Runs(runs) => runs.iter().try_for_each(|run| {
                let (file_offset, blob_offset) = (run.file_offset.get(), run.blob_offset.get());
                visit(Run { file_offset, blob_offset, length: run.length.get() })
            }),
        }
    }
}

/// A run of a file's content. What no run covers is zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Its offset in the file.
    pub(crate) file_offset: u64,
    /// Its offset in the tar.
    pub(crate) blob_offset: u64,
    /// Bytes.
    pub(crate) length: u64,
}
