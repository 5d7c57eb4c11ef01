//! Copies content of a view into files on the host, by the kernel where possible.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Node, View, ViewError, ViewLayer};
use crate::sharing::Blob;
use crate::{Ino, Kind};

/// The unit in which file systems with reflinks share content, in bytes.
#[cfg(target_os = "linux")]
const BLOCK: u64 = 4096;
/// How many bytes are copied at once if the kernel cannot do the copy by itself.
const PIECE: usize = 256 << 10;

/// Why content could not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The view cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The file cannot be written.
    #[error("{0}")]
    Write(#[source] io::Error),
}

/// Which side of a copy failed.
enum Side {
    Blob(io::Error),
    Destination(io::Error),
}

impl View {
    /// Returns the hash of a regular file's stored content in the index: a hint for finding equal files.
    #[cfg(target_os = "linux")]
    pub(crate) fn content_hash(&self, ino: Ino) -> Option<[u8; 16]> {
        match self.node(ino).ok()? {
            Node::Record { inode, .. } if inode.kind() == Kind::Regular => Some(inode.content_hash),
            _ => None,
        }
    }

    /// Copies `length` bytes of a regular file's content from its offset `from` into `target` at `at`; the file must
    /// have that many. Holes are skipped: `target` must already read as zeros there. `copied` is told how many bytes
    /// are copied.
    ///
    /// If the file system can share blocks and both offsets are multiples of 4 KiB, only references are copied.
    pub fn copy_content(
        &self,
        ino: Ino,
        from: u64,
        length: u64,
        target: &File,
        at: u64,
        copied: &mut dyn FnMut(u64),
    ) -> Result<(), CopyError> {
        let Node::Record { layer, number, index, inode } = self.node(ino)? else {
            return Err(ViewError::NotRegular(ino).into());
        };
        if inode.kind() != Kind::Regular {
            return Err(ViewError::NotRegular(ino).into());
        }
        let Some(files) = self.layers.get(layer as usize) else { return Err(ViewError::NoSuchInode(ino).into()) };
        let damaged = |cause| ViewError::Damaged { layer: index.diff_id(), path: index.path_of(number), cause };
        self.verify(layer, number, files).map_err(damaged)?;
        let mut failed = None;
        let end = from.saturating_add(length).min(inode.size.get());
        let outcome = ViewLayer::each_run(index.segments(inode), inode.size.get(), |run| {
            let (start, stop) = (run.file_offset.max(from), (run.file_offset + run.length).min(end));
            if start >= stop {
                return Ok(());
            }
            let source = run.blob_offset + (start - run.file_offset);
            match copy(&files.blob, source, target, at + (start - from), stop - start) {
                Ok(()) => copied(stop - start),
                Err(Side::Blob(cause)) => return Err(cause),
                Err(Side::Destination(cause)) => {
                    failed = Some(cause);
                    return Err(io::ErrorKind::Other.into());
                }
            }
            Ok(())
        });
        match (failed, outcome) {
            (Some(cause), _) => Err(CopyError::Write(cause)),
            (None, outcome) => Ok(outcome.map_err(damaged)?),
        }
    }
}

/// Copies a range of a blob.
fn copy(blob: &Blob, mut from: u64, target: &File, mut at: u64, mut left: u64) -> Result<(), Side> {
    by_reference(blob, &mut from, target, &mut at, &mut left)?;
    let mut piece = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
    while left > 0 {
        let wanted = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        let part = piece.get_mut(..wanted).unwrap_or_default();
        blob.read_exact_at(part, from).map_err(Side::Blob)?;
        target.write_all_at(part, at).map_err(Side::Destination)?;
        (from, at, left) = (from + wanted as u64, at + wanted as u64, left - wanted as u64);
    }
    Ok(())
}

/// Lets the kernel copy as many whole blocks from the start of a range as it can, and advances the range.
///
/// This is only faster if the kernel does not have to move the bytes, and the kernel cannot copy borrowed content.
#[cfg(target_os = "linux")]
fn by_reference(blob: &Blob, from: &mut u64, target: &File, at: &mut u64, left: &mut u64) -> Result<(), Side> {
    use rustix::io::Errno;

    while let Some(file) = blob.whole()
        && *left >= BLOCK
        && from.is_multiple_of(BLOCK)
        && at.is_multiple_of(BLOCK)
    {
        let (mut source, mut place) = (*from, *at);
        let wanted = usize::try_from(*left - *left % BLOCK).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(file, Some(&mut source), target, Some(&mut place), wanted) {
            Ok(0) => return Err(Side::Blob(io::ErrorKind::UnexpectedEof.into())),
            Ok(copied) => {
                let copied = copied as u64;
                (*from, *at, *left) = (*from + copied, *at + copied, *left - copied);
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::BADF) => break,
            Err(errno @ Errno::IO) => return Err(Side::Blob(errno.into())),
            Err(errno) => return Err(Side::Destination(errno.into())),
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn by_reference(_: &Blob, _: &mut u64, _: &File, _: &mut u64, _: &mut u64) -> Result<(), Side> {
    Ok(())
}
