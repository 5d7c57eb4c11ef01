//! Lists and measures directories of a store.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::handle::Store;
use crate::error::StoreError;
use crate::regular;
use crate::sharing::Blob;
use crate::{DiffId, Digest};

impl Store {
    /// Returns every layer of the store, and the removed layers from which others borrow content.
    pub(super) fn stored_layers(&self) -> Result<Vec<DiffId>, StoreError> {
        Ok(list(&self.layout.layers())?.iter().filter_map(|path| digest(path).map(DiffId)).collect())
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn digest(path: &Path) -> Option<Digest> {
    Digest::from_hex(&file_name(path)).ok()
}

/// Lists a directory that may not exist yet, or that an earlier version did not have. Any other error is returned,
/// because the caller must be certain that nothing in it is needed.
pub(super) fn list_if_there(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match list(directory) {
        Err(StoreError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(directory).map_err(StoreError::io(directory))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(StoreError::io(directory))).collect()
}

/// Returns the bytes on disk of a file, or of a directory and everything below it; what cannot be read counts as
/// nothing.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = match metadata.is_dir() {
        true => list(path).unwrap_or_default().iter().map(|path| disk_bytes(path)).sum(),
        false => 0,
    };
    metadata.blocks() * 512 + below
}

/// Returns who can change something of a layer, in words, if anyone except this user and root can.
pub(super) fn changeable(directory: &Path, blob: &Blob) -> Option<String> {
    let files = blob.files().filter_map(|file| file.metadata().ok());
    let found = directory.metadata().into_iter().chain(files).find(|found| !regular::is_safe(found))?;
    Some(format!("{} can change a file of it", crate::user_dirs::user_name(found.uid())))
}
