//! The files of a store's directory: what a command added, and that a failed one added nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The regular files of a store by path below it, with inode number and length. A file that was replaced or
/// rewritten in place with a different length counts as a different file. Locks and leases, which are empty and come
/// and go with their holders, are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    files: BTreeMap<PathBuf, (u64, u64)>,
    bytes: u64,
}

impl Inventory {
    /// Lists a store.
    ///
    /// # Panics
    /// When a directory cannot be listed.
    #[must_use]
    pub fn of(store: &Path) -> Self {
        let mut inventory = Self { files: BTreeMap::new(), bytes: 0 };
        inventory.list(store, Path::new(""));
        inventory
    }

    fn list(&mut self, store: &Path, below: &Path) {
        let directory = store.join(below);
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let entry = entry.expect("an entry of the store");
            let path = below.join(entry.file_name());
            let stat = entry.metadata().expect("a file of the store");
            if stat.is_dir() {
                if !path.starts_with("leases") && !path.starts_with("locks") {
                    self.list(store, &path);
                }
            } else if stat.len() > 0 {
                self.files.insert(path, (stat.ino(), stat.len()));
                // st_blocks counts 512 bytes, whatever the block size of the file system (stat(2)).
                self.bytes += stat.blocks() * 512;
            }
        }
    }

    /// How much disk space the files take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The files that are here and not in `before`.
    #[must_use]
    pub fn added_since(&self, before: &Self) -> Vec<&Path> {
        self.files
            .iter()
            .filter(|(path, file)| before.files.get(*path) != Some(file))
            .map(|(path, _)| path.as_path())
            .collect()
    }

    /// The directories of the layers: those below `layers` that contain a tar, whole or thin.
    #[must_use]
    pub fn layers(&self) -> Vec<&Path> {
        let blobs = self
            .files
            .keys()
            .filter(|path| path.starts_with("layers") && (path.ends_with("blob") || path.ends_with("thin")));
        blobs.filter_map(|path| path.parent()).collect()
    }
}
