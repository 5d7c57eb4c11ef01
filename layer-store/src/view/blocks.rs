//! `st_blocks`: what a file takes where it is unpacked, so that `du` counts the same in both trees.
//!
//! The count is that of ext4 with blocks of 4 KiB and inodes of 256 bytes, in the units of 512 bytes that stat(2) has.
//! Blocks for extended attributes, and what a directory of many names takes beyond its first, are not counted.

use crate::layer::Segments;

/// Bytes of one block.
const BLOCK: u64 = 4096;

/// Units of `st_blocks` in one block.
const UNITS: u64 = BLOCK / 512;

/// The least target of a symbolic link, in bytes, that does not lie in the inode itself: that has room for 60 bytes
/// with the NUL (`i_block` of fs/ext4/ext4.h).
const SLOW_SYMLINK: u64 = 60;

/// Of a regular file: the blocks that any of its stored content falls into. Holes take none.
pub(crate) fn of_content(segments: Segments<'_>, size: u64) -> u64 {
    let runs = match segments {
        Segments::Whole(_) => return of_length(size),
        Segments::Runs(runs) => runs,
    };
    let (mut blocks, mut counted) = (0, 0);
    for run in runs {
        let end = (run.file_offset.get() + run.length.get()).div_ceil(BLOCK);
        // The block in which the last run ended may be that in which this one begins.
        blocks += end.saturating_sub(counted.max(run.file_offset.get() / BLOCK));
        counted = end;
    }
    blocks * UNITS
}

/// Of a symbolic link with a target of `length` bytes.
pub(crate) const fn of_symlink(length: u64) -> u64 {
    if length < SLOW_SYMLINK { 0 } else { of_length(length) }
}

/// Of `length` bytes without holes.
pub(crate) const fn of_length(length: u64) -> u64 {
    length.div_ceil(BLOCK) * UNITS
}
