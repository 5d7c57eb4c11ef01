//! Opens stores and creates them.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::geteuid;

use super::features::{self, Feature, StoreFile};
use super::handle::Store;
use super::layout::{DIRECTORIES, Layout};
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lock::{self, FileLock};
use crate::observer::{Logged, Observer, Silent};
use crate::regular;
use crate::user_dirs;

impl Store {
    /// Returns `$LAMINA_STORE`, or else `$XDG_DATA_HOME/lamina`, or else `~/.local/share/lamina`.
    #[must_use]
    pub fn default_root() -> PathBuf {
        let named = std::env::var_os("LAMINA_STORE").filter(|value| !value.is_empty()).map(PathBuf::from);
        named.or_else(user_dirs::data).unwrap_or_else(|| PathBuf::from("/var/lib/lamina"))
    }

    /// Opens the store at `root`, and creates one if it does not exist.
    ///
    /// Fails if the directory cannot be created or read, or if it has a store of a newer format, or one with features
    /// that a program must know to read it and this one does not.
    ///
    /// The store must be this user's or root's: what others can change at any time is only read as an additional store,
    /// where it is verified. Layers that an earlier version may have added unverified are verified first, once.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_watched(root, &Logged)
    }

    /// Does the same. `observer` is told if this takes long, and can end it.
    pub fn open_watched(root: &Path, observer: &dyn Observer) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        refuse_of_others(&layout)?;
        let file = read_or_make(&layout)?;
        let store = Self::of(layout, &file)?;
        store.verify_unhashed(&file, observer)?;
        // The lease of the verification does not have the purpose of this store.
        Ok(Self { lease: OnceLock::new(), ..store })
    }

    /// Opens the store at `root`, but does not create one: for commands that only read.
    pub fn open_existing(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        // A store that has lost its `store.json` is still a store.
        if layout.join("store.json").exists() || layout.layers().is_dir() {
            return Self::open(root);
        }
        Err(StoreError::NoStoreYet(root.to_owned()))
    }

    /// Records that the store uses `feature` from now on, and waits until that is on the disk. Must be called before
    /// the first thing that needs the feature gets its place, and not while the store's own lock is held.
    pub(crate) fn use_feature(&self, feature: Feature) -> Result<(), StoreError> {
        if StoreFile::read(&self.layout)?.has(feature) {
            return Ok(());
        }
        let staging = self.staging()?;
        let _one_at_a_time = FileLock::wait(&self.layout.lock("features"), &Silent, "writes store.json")?;
        let mut file = StoreFile::read(&self.layout)?;
        if file.has(feature) {
            return Ok(());
        }
        file.list(feature).push(feature.name.to_owned());
        let written = staging.path().join("store.json");
        durable::write(&written, &file.to_bytes())?;
        fault::point(FaultPoint::FeatureStaged);
        durable::publish(&written, &features::path(&self.layout))
    }
}

/// Fails for a directory that belongs to neither this user nor root.
fn refuse_of_others(layout: &Layout) -> Result<(), StoreError> {
    let owner = fs::metadata(layout.root()).map(|found| found.uid());
    match owner {
        Ok(owner) if owner != 0 && owner != geteuid().as_raw() => {
            Err(StoreError::OfOthers { path: layout.root().to_owned(), owner: user_dirs::user_name(owner) })
        }
        _ => Ok(()),
    }
}

/// Reads the `store.json` of a store, and creates the store if it does not exist.
fn read_or_make(layout: &Layout) -> Result<StoreFile, StoreError> {
    if !features::path(layout).exists() {
        fault::point(FaultPoint::StoreSought);
        make(layout)?;
    }
    StoreFile::read(layout)
}

fn make(layout: &Layout) -> Result<(), StoreError> {
    let new: Vec<PathBuf> = layout.root().ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    // The umask decides whether others may enter the store, and never whether they may write to it.
    let root = fs::DirBuilder::new().recursive(true).mode(0o755).create(layout.root());
    root.map_err(StoreError::io(layout.root()))?;
    for directory in DIRECTORIES {
        let path = layout.join(directory);
        regular::make_directory(&path).map_err(StoreError::io(&path))?;
    }
    // Only the first of several processes creates the store. Its `store.json` must not be overwritten: it may soon
    // list features that a new store does not have.
    let _one_at_a_time = FileLock::wait(&layout.lock("features"), &Silent, "writes store.json")?;
    if layout.join("store.json").exists() {
        return Ok(());
    }
    // A process that finds the new store may collect garbage, which must not remove what this one is making.
    let _shared = lock::shared(&layout.join("lock"), &Logged)?;
    let staging = tempfile::Builder::new().prefix("new").tempdir_in(layout.join("tmp"));
    let staging = staging.map_err(StoreError::io(layout.root()))?;
    let written = staging.path().join("store.json");
    durable::write(&written, &StoreFile::new(layout)?.to_bytes())?;
    for directory in DIRECTORIES.iter().filter_map(|directory| Path::new(directory).parent()) {
        durable::sync_directory(&layout.root().join(directory))?;
    }
    fault::point(FaultPoint::StoreMade);
    durable::publish(&written, &layout.join("store.json"))?;
    fault::point(FaultPoint::StoreNamed);
    for parent in new.iter().filter_map(|path| path.parent()) {
        match durable::sync_directory(parent) {
            // This process may be allowed to create files in a directory but not to list it.
            Err(error) if error.is_closed() => {}
            synced => synced?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const READABLE: Feature = Feature { name: "a-readable", readable: true };
    const OTHER: Feature = Feature { name: "an-incompatible", readable: false };

    fn store() -> (Store, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        (Store::open(directory.path()).expect("a store"), directory)
    }

    #[test]
    fn a_feature_is_noted_once_and_keeps_what_else_is_there() {
        let (store, directory) = store();
        let path = directory.path().join("store.json");
        let mut file = StoreFile::read(&store.layout).unwrap();
        file.other.insert("later".into(), "kept".into());
        fs::write(&path, file.to_bytes()).unwrap();
        for _ in 0..2 {
            store.use_feature(READABLE).unwrap();
            store.use_feature(OTHER).unwrap();
        }
        let file = StoreFile::read(&store.layout).unwrap();
        assert_eq!(file.read_only_compatible, ["hashed-layers", "a-readable"]);
        assert_eq!(file.incompatible, ["an-incompatible"]);
        assert_eq!(file.other["later"], "kept");
    }

    #[test]
    fn features_noted_at_the_same_time_are_all_noted() {
        let (_, directory) = store();
        // Opened before the feature is added: a process that finds an unknown feature may only read.
        let stores = [READABLE, OTHER].map(|feature| (feature, Store::open(directory.path()).unwrap()));
        std::thread::scope(|scope| {
            for (feature, store) in &stores {
                scope.spawn(|| store.use_feature(*feature).unwrap());
            }
        });
        let file = StoreFile::read(&Layout::new(directory.path())).unwrap();
        assert_eq!((file.incompatible.len(), file.read_only_compatible.len()), (1, 2));
    }
}
