//! Verifies, once, layers that an earlier version may have copied from another store without computing their digests.
//!
//! Since the feature `hashed-layers`, every layer of a store was hashed by the program that put it there. A store without
//! the feature may have layers that were cloned or linked from an additional store. They are whole, and no record in
//! `compressed/` is younger than their tar: a layer that was pulled or imported got such a record after its tar.
//!
//! A layer whose digest differs from its name is taken out of the store. Its tar stays as a remnant if other layers
//! borrow from it: what they borrow was compared when they were added.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::disk::{list, list_if_there};
use super::features::{HASHED_LAYERS, StoreFile};
use super::handle::Store;
use super::layout::DIRECTORIES;
use crate::DiffId;
use crate::durable;
use crate::error::StoreError;
use crate::lock::FileLock;
use crate::observer::Observer;
use crate::regular;
use crate::sharing::blob;

/// Seconds and nanoseconds.
type Time = (i64, i64);

impl Store {
    /// Verifies what may never have been hashed, and records that. Does nothing in a store that has the feature, or that
    /// this process may not change.
    pub(super) fn verify_unhashed(&self, file: &StoreFile, observer: &dyn Observer) -> Result<(), StoreError> {
        let is_own = self.owner == rustix::process::geteuid().as_raw();
        if file.has(HASHED_LAYERS) || self.closed.is_some() || !is_own {
            return Ok(());
        }
        match self.verify_and_record(observer) {
            Err(error @ (StoreError::Cancelled | StoreError::Interrupted(_))) => Err(error),
            // On a full or read-only disk, the next command tries again.
            Err(error) => {
                tracing::info!("layers not verified: {error}");
                Ok(())
            }
            done => done,
        }
    }

    fn verify_and_record(&self, observer: &dyn Observer) -> Result<(), StoreError> {
        let work = "verifies the layers that an earlier version has copied from other stores";
        let _one_at_a_time = FileLock::wait(&self.layout.lock("hashed"), observer, work)?;
        if StoreFile::read(&self.layout)?.has(HASHED_LAYERS) {
            return Ok(());
        }
        self.close_to_others();
        let unhashed = self.maybe_unhashed()?;
        if !unhashed.is_empty() {
            let count = unhashed.len();
            observer.notice(&format!(
                "{}: verifying {count} layers that an earlier version may have copied from other stores unverified; this \
                 is done once",
                self.root().display()
            ));
        }
        for layer in unhashed {
            if let Some(damage) = self.layers().verify(&layer, observer)? {
                self.take_out(&layer)?;
                observer.notice(&format!(
                    "layer {layer} is removed from the store: {}; pull its image again",
                    damage.cause
                ));
            }
        }
        self.use_feature(HASHED_LAYERS)
    }

    /// Returns the whole layers that have no younger record of the bytes that they came as.
    fn maybe_unhashed(&self) -> Result<Vec<DiffId>, StoreError> {
        let mut recorded: BTreeMap<DiffId, Time> = BTreeMap::new();
        for path in list_if_there(&self.layout.join("compressed/sha256"))? {
            let layer = regular::read_text(&path, regular::NOTE_MAX).ok().and_then(|text| text.trim_end().parse().ok());
            if let (Some(layer), Ok(found)) = (layer, path.symlink_metadata()) {
                let written = (found.mtime(), found.mtime_nsec());
                let latest = recorded.entry(layer).or_insert(written);
                *latest = written.max(*latest);
            }
        }
        let is_unhashed = |layer: &DiffId| {
            let changed = self.layout.blob(layer).symlink_metadata().map(|found| (found.ctime(), found.ctime_nsec()));
            changed.is_ok_and(|changed| recorded.get(layer).is_none_or(|recorded| changed > *recorded))
        };
        Ok(self.stored_layers()?.into_iter().filter(is_unhashed).collect())
    }

    /// Takes a layer out of the store.
    fn take_out(&self, layer: &DiffId) -> Result<(), StoreError> {
        let _exclusive = self.exclusive_lock()?;
        let (place, tar) = (self.layout.layer(layer), self.layout.blob(layer));
        let rest = place.join(blob::REMNANT);
        let out = match rest.symlink_metadata() {
            Ok(_) => fs::remove_file(&tar),
            Err(_) => fs::rename(&tar, &rest),
        };
        out.map_err(StoreError::io(&tar))?;
        for name in ["index", "contents"] {
            let _ = fs::remove_file(place.join(name));
        }
        durable::sync_directory(&place)
    }

    /// Removes the write permission that an earlier version, run with a permissive umask, gave to everybody. This comes
    /// first: a layer that others could change until now is verified too, because this changes its tar's time.
    fn close_to_others(&self) {
        let directories = DIRECTORIES.iter().filter(|directory| **directory != "leases");
        for directory in directories.map(|directory| self.layout.join(directory)) {
            for path in directory.ancestors().take_while(|path| path.starts_with(self.root())) {
                close(path);
            }
            for entry in list(&directory).unwrap_or_default() {
                close(&entry);
                if entry.is_dir() && !entry.is_symlink() {
                    list(&entry).unwrap_or_default().iter().for_each(|file| close(file));
                }
            }
        }
    }
}

fn close(path: &Path) {
    if let Ok(found) = path.symlink_metadata()
        && !found.is_symlink()
        && found.mode() & 0o002 != 0
    {
        let _ = fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o7755));
    }
}
