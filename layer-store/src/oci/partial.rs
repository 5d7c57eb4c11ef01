//! The part of a layer that arrived before its transfer ended, kept for the next attempt.
//!
//! It is a cache: nothing is synced, and the digest of the whole layer proves it like any other bytes. The file is
//! locked for as long as a process fetches the layer, so that no two write it, and a collection knows it is in use.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Digest;
use crate::regular;

/// The first bytes of a layer as they are transferred.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    length: u64,
    /// How many bytes have been read.
    read: u64,
}

impl Partial {
    /// Opens the part of the layer `digest` in `directory`, or starts a new one. Returns `None` if another process
    /// fetches the layer or if nothing can be kept; the layer can still be fetched.
    pub(crate) fn open(directory: &Path, digest: &Digest, size: u64) -> Option<Self> {
        let kept = Self::try_open(directory, digest, size);
        kept.unwrap_or_else(|error| {
            tracing::info!("{}: {error}; the transfer of {digest} starts over if it breaks off", directory.display());
            None
        })
    }

    fn try_open(directory: &Path, digest: &Digest, size: u64) -> io::Result<Option<Self>> {
        // Bytes that have not been verified yet must be private.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(digest.hex());
        let file = regular::open_private(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A collection, or the process that has just finished the layer, may have removed the name in the meantime.
        let (opened, named) = (file.metadata()?, fs::symlink_metadata(&path));
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
            return Ok(None);
        }
        let mut partial = Self { file, path, length: opened.len(), read: 0 };
        if partial.length > size {
            partial.clear()?;
        }
        Ok(Some(partial))
    }

    /// Returns how many bytes are kept.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Adds the next bytes. If the disk has no room for them, everything is removed, because the layer needs the room
    /// too.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, self.length);
        if written.is_err() {
            let _ = self.clear();
        } else {
            self.length += bytes.len() as u64;
        }
        written
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        (self.length, self.read) = (0, 0);
        self.file.set_len(0)
    }
}

/// Reads what is kept, from its beginning.
impl Read for Partial {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length - self.read).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let filled = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.read)?;
        self.read += filled as u64;
        Ok(filled)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.length == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns whether a process has the part at `path` open for a transfer.
pub(crate) fn is_in_use(path: &Path) -> bool {
    match regular::open(path).map(|file| file.try_lock_shared()) {
        Ok(Err(TryLockError::WouldBlock)) => true,
        Ok(_) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_there_the_next_time_and_one_process_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let (place, digest) = (directory.path().join("partial"), Digest::of(b"layer"));
        let mut first = Partial::open(&place, &digest, 10).unwrap();
        first.append(b"abc").unwrap();
        assert!(Partial::open(&place, &digest, 10).is_none(), "it is in use");
        assert!(is_in_use(&place.join(digest.hex())));
        drop(first);
        assert!(!is_in_use(&place.join(digest.hex())));
        let mut second = Partial::open(&place, &digest, 10).unwrap();
        second.append(b"def").unwrap();
        assert_eq!(io::read_to_string(&mut second).unwrap(), "abcdef");
        drop(second);
        assert_eq!(
            Partial::open(&place, &digest, 5).unwrap().length(),
            0,
            "more than the layer has is not of the layer"
        );
        assert!(!place.join(digest.hex()).exists(), "nothing leaves nothing");
    }
}
