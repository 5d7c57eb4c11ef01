//! A view as an EROFS file system: as a read-only block device without a copy of the content, or as one uncompressed
//! file with it. Both have the same bytes.
//!
//! ```text
//! block 0             superblock at byte 1024, zeros around it
//! blocks 1..f         inodes of 32 or 64 bytes at multiples of 32, each with its extended attributes and, if it is a
//!                     directory or a symbolic link, the last part of its content, if that fits into one block with them
//! blocks f..d         extended attributes that several inodes have, if sharing them saves more than a block
//! blocks d..c         whole blocks of directories and symbolic links
//! blocks c..          content of files, each from a new block on
//! ```
//!
//! An inode has 32 bytes if its time of modification is the one that most inodes have, which is in the superblock, and if
//! its numbers are small: in a reproducible image, and in most trees of npm packages, that is nearly every inode.
//!
//! Blocks have 4 KiB. Inodes are in the order of a walk, level by level, except that an inode is placed before others if it
//! fits into what they had to leave free at the end of a block. Their content is in the order of the walk. The
//! records are in `format.rs`, directories in `directory.rs`, attributes in `xattrs.rs`. Only features of Linux 5.4 are
//! used. What is written depends only on the view, so the same base always gives the same bytes.
//!
//! All blocks before `c` are metadata and have no content of any file: a damaged blob affects no other file, a walk
//! reads no content, and `map.rs` stores these blocks with a table of where in the layers' tars the content of the others
//! is. `device.rs` reads from both. A file's content may begin at any byte of a tar.
//!
//! For a file with everything, the kernel copies content from the blobs. On file systems with reflinks, content at a
//! multiple of 4 KiB in a blob shares its blocks. Holes stay holes. Memory use grows with the number of inodes, not with
//! their content.
//!
//! This is our own code because the `composefs` crate, which has an EROFS writer, leaves the content of files outside
//! the image.

mod device;
mod directory;
mod format;
pub(crate) mod map;
mod metadata;
mod plan;
mod write;
mod xattrs;

use std::fs::File;
use std::io;

use crate::{CopyError, Observer, View, ViewError};
pub use device::BlockDevice;

/// Why an image could not be written. What was written so far is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErofsError {
    /// The view cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The image cannot be written.
    #[error("{0}")]
    Write(#[source] io::Error),
    /// The image would have more than 2^32 blocks.
    #[error("the image would take more than 16 TiB, which is the most that EROFS addresses")]
    TooLarge,
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<CopyError> for ErofsError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::View(error) => Self::View(error),
            CopyError::Write(cause) => Self::Write(cause),
        }
    }
}

/// What an image contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ErofsSummary {
    /// Bytes of the image.
    pub bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Extended attributes that EROFS cannot store: of namespaces that Linux does not know, or larger than 64 KiB.
    pub xattrs_left_out: u64,
}

/// Returns the length in an image's superblock, if its checksum is right.
pub(crate) fn described_length(image: &File) -> Option<u64> {
    let mut block = vec![0; usize::try_from(format::BLOCK).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(image, &mut block, 0).ok()?;
    format::Superblock::described_length(&block)
}

impl View {
    /// Writes the whole view as an EROFS image to an empty file. `uuid` is the file system's UUID. `observer` is told
    /// how many bytes of content are written.
    ///
    /// Fails if the view cannot be read, if the file cannot be written, or if it is cancelled.
    pub fn write_erofs(
        &self,
        file: &File,
        uuid: [u8; 16],
        observer: &dyn Observer,
    ) -> Result<ErofsSummary, ErofsError> {
        let plan = plan::Plan::of(self, observer)?;
        write::write(self, &plan, file, uuid, observer)?;
        Ok(ErofsSummary {
            bytes: plan.bytes(),
            inodes: plan.places.len() as u64,
            xattrs_left_out: plan.xattrs_left_out,
        })
    }
}
