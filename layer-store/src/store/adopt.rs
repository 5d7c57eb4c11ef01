//! Copies layers of other stores into this one if they are needed permanently.
//!
//! A lease in an additional store ends with its process, and often this process cannot take one there. An image that
//! was made here, or a machine that keeps what it writes, may need layers from an additional store. These layers must
//! be copied into this store before the owner of the additional store collects garbage.
//!
//! The copy of a whole tar shares its blocks with the file in the other store if the file system can do that, or is a
//! hard link to that file if it belongs to this user; neither takes space. Any other layer is read like a new one: its
//! digest is verified, and it is stored whole or thin, depending on what this store has.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::handle::Store;
use super::layers::Layers;
use crate::durable;
use crate::error::StoreError;
use crate::observer::Logged;
use crate::sharing::blob;
use crate::{DiffId, Digest, ExpectedLayer, IngestError};

impl Layers<'_> {
    /// Copies into this store those of these layers that only additional stores have.
    pub fn adopt<'layers>(&self, layers: impl IntoIterator<Item = &'layers DiffId>) -> Result<(), StoreError> {
        layers.into_iter().try_for_each(|layer| self.store.adopt_layer(layer, true))
    }

    /// Does the same, but only for layers that take no space here.
    pub fn adopt_if_free<'layers>(&self, layers: impl IntoIterator<Item = &'layers DiffId>) -> Result<(), StoreError> {
        layers.into_iter().try_for_each(|layer| self.store.adopt_layer(layer, false))
    }

    /// Returns the additional stores that have some of these layers and in which this process cannot take a lease: a
    /// collection there may delete what it uses. Stores on read-only file systems are not included, because nothing can
    /// be collected there.
    #[must_use]
    pub fn unleased(&self, layers: &[DiffId]) -> Vec<PathBuf> {
        let is_closed =
            |store: &&Store| matches!(store.lease.get(), Some(Err(kind)) if *kind == io::ErrorKind::PermissionDenied);
        let has_some = |store: &&Store| layers.iter().any(|layer| std::ptr::eq(self.store.home(layer), *store));
        self.store.additional.iter().filter(is_closed).filter(has_some).map(|store| store.root().to_owned()).collect()
    }
}

impl Store {
    fn adopt_layer(&self, layer: &DiffId, copying: bool) -> Result<(), StoreError> {
        let is_own = || self.hold_own([layer], &[]).map(|missing| missing.is_empty());
        if is_own()? {
            return Ok(());
        }
        let _claim = self.layers().lock(layer, &layer.to_string(), &Logged)?;
        if is_own()? {
            return Ok(());
        }
        self.hold_layer(layer)?;
        let (home, sources) = (self.home(layer), self.layers().sources(layer));
        let staging = self.staging()?;
        if home.clone_layer(layer, staging.path())? {
            self.publish_layer(staging.path(), layer)?;
        } else if copying {
            let expected = ExpectedLayer { compressed: None, diff_id: Some(*layer) };
            self.layers().ingest(&mut home.open_blob(layer)?.reader(), &expected).map_err(|error| match error {
                IngestError::Store(error) => error,
                error => StoreError::DamagedLayer { layer: *layer, cause: error.to_string() },
            })?;
        }
        for source in sources.iter().rev() {
            self.remember_source(layer, source).unwrap_or_else(|error| super::layers::forget(&error));
        }
        Ok(())
    }

    /// Copies a manifest or config into this store if only an additional store has it.
    pub(super) fn adopt_document(&self, digest: &Digest) -> Result<(), StoreError> {
        self.images().put_manifest(&self.images().manifest_bytes(digest)?).map(drop)
    }

    /// Makes a copy of a whole layer of this store in `directory` if that takes no space.
    fn clone_layer(&self, layer: &DiffId, directory: &Path) -> Result<bool, StoreError> {
        let (tar, to) = (self.layout.blob(layer), directory.join(blob::WHOLE));
        if !(tar.is_file() && (share_blocks(&tar, &to) || link_own(&tar, &to))) {
            return Ok(false);
        }
        // Caches: a missing or damaged one is rebuilt.
        for (from, name) in [(self.layout.layer_index(layer), "index"), (self.layout.contents(layer), "contents")] {
            let _ = fs::copy(from, directory.join(name));
        }
        durable::sync_directory(directory)?;
        Ok(true)
    }
}

/// Creates a file that shares the blocks of another one, if the file system can do that.
#[cfg(target_os = "linux")]
fn share_blocks(from: &Path, to: &Path) -> bool {
    let made = fs::File::open(from).and_then(|source| Ok((source, fs::File::create_new(to)?)));
    let shared = made.and_then(|(source, copy)| {
        rustix::fs::ioctl_ficlone(&copy, &source)?;
        copy.sync_all()
    });
    shared.inspect_err(|_| drop(fs::remove_file(to))).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share_blocks(_: &Path, _: &Path) -> bool {
    false
}

/// Creates a hard link to a file if it belongs to this user: another owner might change it. The store never removes
/// bytes of a layer in place, and a repair replaces a name, not the file.
fn link_own(from: &Path, to: &Path) -> bool {
    let is_own = fs::metadata(from).is_ok_and(|tar| tar.uid() == rustix::process::geteuid().as_raw());
    is_own && fs::hard_link(from, to).is_ok()
}
