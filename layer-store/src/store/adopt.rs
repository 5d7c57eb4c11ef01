//! Brings layers of other stores into this one, for whoever needs them for ever.
//!
//! A lease in another store ends with its process, and often none can be had there. So what an image that was made here, or a
//! machine that keeps what it writes, needs of another store must lie in this one before its owner collects.
//!
//! A whole tar shares its blocks with the other store's where the file system can do that, or is that very file where it
//! belongs to this user: neither takes space. What is left is read like any layer that comes in, its digest proved, and
//! whole or thin by what lies here.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Store;
use super::error::StoreError;
use super::layers::Layers;
use crate::durable;
use crate::observer::Logged;
use crate::sharing::blob;
use crate::{DiffId, Digest, ExpectedLayer, IngestError};

impl Layers<'_> {
    /// Brings those of these layers into this store that only others have.
    pub fn adopt<'layers>(&self, layers: impl IntoIterator<Item = &'layers DiffId>) -> Result<(), StoreError> {
        layers.into_iter().try_for_each(|layer| self.store.adopt_layer(layer, true))
    }

    /// The same, for those alone of which that takes no space.
    pub fn adopt_if_free<'layers>(&self, layers: impl IntoIterator<Item = &'layers DiffId>) -> Result<(), StoreError> {
        layers.into_iter().try_for_each(|layer| self.store.adopt_layer(layer, false))
    }

    /// The stores read also that have some of these layers and let this process take no lease: a collection there may
    /// take away what it uses. On a read-only file system there is none.
    #[must_use]
    pub fn unleased(&self, layers: &[DiffId]) -> Vec<PathBuf> {
        let is_closed =
            |store: &&Store| matches!(store.lease.get(), Some(Err(kind)) if *kind == io::ErrorKind::PermissionDenied);
        let has_some = |store: &&Store| layers.iter().any(|layer| std::ptr::eq(self.store.home(layer), *store));
        self.store.others.iter().filter(is_closed).filter(has_some).map(|store| store.root().to_owned()).collect()
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

    /// Keeps a manifest or config in this store that perhaps only another has.
    pub(super) fn adopt_document(&self, digest: &Digest) -> Result<(), StoreError> {
        self.images().put_manifest(&self.images().manifest_bytes(digest)?).map(drop)
    }

    /// Makes a layer of this store, whose tar is whole, in `directory` too, if that takes no space.
    fn clone_layer(&self, layer: &DiffId, directory: &Path) -> Result<bool, StoreError> {
        let (tar, to) = (self.layout.blob(layer), directory.join(blob::WHOLE));
        if !(tar.is_file() && (share_blocks(&tar, &to) || link_own(&tar, &to))) {
            return Ok(false);
        }
        // Caches: what is missing or cut off is made anew.
        for (from, name) in [(self.layout.layer_index(layer), "index"), (self.layout.contents(layer), "contents")] {
            let _ = fs::copy(from, directory.join(name));
        }
        durable::sync_directory(directory)?;
        Ok(true)
    }
}

/// Makes a file of the blocks of another, where the file system can.
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

/// Gives a file another name, where it is this user's: another owner might change it. It never loses bytes in place, and
/// a repair puts another file over one name.
fn link_own(from: &Path, to: &Path) -> bool {
    let is_own = fs::metadata(from).is_ok_and(|tar| tar.uid() == rustix::process::geteuid().as_raw());
    is_own && fs::hard_link(from, to).is_ok()
}
