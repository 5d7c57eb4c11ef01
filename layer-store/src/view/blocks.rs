//! `st_blocks`: how much space a file takes when it is unpacked, so that `du` counts the same in both trees.
//!
//! The count is that of ext4 with blocks of 4 KiB and inodes of 256 bytes, in the 512-byte units of stat(2). It does
//! not include blocks for extended attributes, and counts only one block for a directory, however many names it has.

use crate::layer::Segments;

/// The size of one block in bytes.
const BLOCK: u64 = 4096;

/// Units of `st_blocks` in one block.
const UNITS: u64 = BLOCK / 512;

/// The length in bytes from which the target of a symbolic link is not stored in the inode itself, which has room for
/// 60 bytes including the NUL (`i_block` of fs/ext4/ext4.h).
const SLOW_SYMLINK: u64 = 60;

/// Returns the count for a regular file: the blocks that contain any of its stored content. Holes take none.
pub(crate) fn of_content(segments: Segments<'_>, size: u64) -> u64 {
    let runs = match segments {
        Segments::Whole(_) => return of_length(size),
        Segments::Runs(runs) => runs,
    };
    let (mut blocks, mut counted) = (0, 0);
    for run in runs {
        let end = (run.file_offset.get() + run.length.get()).div_ceil(BLOCK);
        // This run may begin in the same block in which the last one ended.
        blocks += end.saturating_sub(counted.max(run.file_offset.get() / BLOCK));
        counted = end;
    }
    blocks * UNITS
}

/// Returns the count for a symbolic link with a target of `length` bytes.
pub(crate) const fn of_symlink(length: u64) -> u64 {
    if length < SLOW_SYMLINK { 0 } else { of_length(length) }
}

/// Returns the count for `length` bytes without holes.
pub(crate) const fn of_length(length: u64) -> u64 {
    length.div_ceil(BLOCK) * UNITS
}
