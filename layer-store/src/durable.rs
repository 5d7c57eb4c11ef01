//! Gives files their names so that a power cut leaves either the whole file or none.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::store::StoreError;

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create_new(path).map_err(StoreError::io(path))?;
    let failed = |cause| StoreError::write(path, bytes.len() as u64, cause);
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Waits until a directory's names are on the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io(path))
}

/// Gives a finished file or directory its place, over what may be there, and waits until that is on the disk.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io(to))?;
    to.parent().map_or(Ok(()), sync_directory)
}
