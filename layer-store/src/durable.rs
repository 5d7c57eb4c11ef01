//! Writes and names files so that a power cut leaves either the whole file or none.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::StoreError;
use crate::regular;

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = regular::create(path).map_err(StoreError::io(path))?;
    let failed = |cause| StoreError::write(path, bytes.len() as u64, cause);
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Waits until a directory's names are on the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io(path))
}

/// Renames a finished file or directory to its place, replacing what may exist there, and waits until that is on the
/// disk.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io(to))?;
    to.parent().map_or(Ok(()), sync_directory)
}

/// Starts writing a part of a file to the disk while the rest is still being produced, so that the sync at the end is
/// short. Linux begins to write back pages that it is told are not needed (`mm/fadvise.c`), and keeps them in memory
/// while they are written. Other systems have no such call.
pub(crate) fn begin_writeback(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(length), rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}
