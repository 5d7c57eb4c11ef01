//! Copies layers of other stores into this one.
//!
//! A lease in an additional store ends with its process, and often this process cannot take one there. An image that
//! was made here, or a machine that keeps what it writes, may need layers from an additional store. These layers must
//! be copied into this store before the owner of the additional store collects garbage. Layers of a store that others can
//! change are copied whenever they are needed (`untrusted.rs`).
//!
//! The copy of a whole tar shares its blocks with the file in the other store if the file system can do that, or is a
//! hard link to that file if nobody but this user can change it; neither takes space. The digest is computed from what
//! this store then has, and the index is built in the same pass. Any other layer is read like a new one: its digest is
//! verified on the way, and it is stored whole or thin, depending on what this store has.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::handle::Store;
use super::layers::Layers;
use super::untrusted::{Watched, not_copied};
use crate::durable;
use crate::error::StoreError;
use crate::lock;
use crate::observer::{Logged, Observer};
use crate::regular;
use crate::sharing::{NewLayer, blob};
use crate::{DiffId, Digest, ExpectedLayer, ingest};

impl Layers<'_> {
    /// Copies each of these layers that only additional stores have into this store. Their digests are verified.
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
        let others = self.store.trusted().skip(1);
        others.filter(is_closed).filter(has_some).map(|store| store.root().to_owned()).collect()
    }
}

impl Store {
    fn adopt_layer(&self, layer: &DiffId, copying: bool) -> Result<(), StoreError> {
        let is_own = || self.hold_own([layer], &[]).map(|missing| missing.is_empty());
        if is_own()? {
            return Ok(());
        }
        self.hold_layer(layer)?;
        // Holding a layer of a store that is only a source copies it.
        if is_own()? {
            return Ok(());
        }
        let _claim = self.layers().lock(layer, &layer.to_string(), &Logged)?;
        if is_own()? {
            return Ok(());
        }
        let (home, sources) = (self.home(layer), self.layers().sources(layer));
        if copying {
            self.copy_layer(home, layer, &Logged)?;
        } else {
            self.clone_layer(home, layer, &Logged)?;
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

    /// Copies a layer of another store into this one, and holds it.
    pub(super) fn copy_layer(&self, home: &Self, layer: &DiffId, observer: &dyn Observer) -> Result<(), StoreError> {
        if self.clone_layer(home, layer, observer)? {
            return Ok(());
        }
        let expected = ExpectedLayer { compressed: None, diff_id: Some(*layer) };
        let blob = home.open_own_blob(layer)?;
        let mut source = Watched { source: blob.reader(), observer };
        let ingested = self.layers().ingest(&mut source, &expected);
        ingested.map(drop).map_err(|error| not_copied(layer, error, observer))
    }

    /// Copies a whole layer of another store into this one if that takes no space, and holds it. Returns whether it did.
    fn clone_layer(&self, home: &Self, layer: &DiffId, observer: &dyn Observer) -> Result<bool, StoreError> {
        let blob = home.open_own_blob(layer)?;
        let Some(tar) = blob.whole() else { return Ok(false) };
        let staging = self.staging()?;
        let copy = staging.path().join(blob::WHOLE);
        let path = home.layout.blob(layer);
        let is_taken = share_blocks(tar, &copy) || !home.is_source && link_own(tar, &path, &copy);
        if !is_taken {
            return Ok(false);
        }
        self.index_copy(staging.path(), layer, observer)?;
        self.publish_layer(staging.path(), layer)?;
        Ok(true)
    }

    /// Verifies the digest of a copy in `directory`, and builds its index and its table of contents.
    fn index_copy(&self, directory: &Path, layer: &DiffId, observer: &dyn Observer) -> Result<(), StoreError> {
        let path = directory.join(blob::WHOLE);
        let tar = regular::open(&path).map_err(StoreError::io(&path))?;
        let length = tar.metadata().map_err(StoreError::io(&path))?.len();
        if length > self.limits.layer_bytes {
            let limit = ingest::LimitExceeded::LayerBytes(self.limits.layer_bytes);
            return Err(StoreError::DamagedLayer { layer: *layer, cause: limit.to_string() });
        }
        let index = directory.join("index");
        let out = BufWriter::new(regular::create(&index).map_err(StoreError::io(&index))?);
        let mut source = Watched { source: BufReader::new(tar), observer };
        let indexed = ingest::index_blob(&mut source, layer, (&index, out), self.limits.inodes);
        let contents = indexed.map_err(|error| not_copied(layer, error, observer))?;
        NewLayer::new(None, directory, *layer, length, contents).write_contents();
        durable::sync_directory(directory)
    }
}

/// Creates a file that shares the blocks of another one, if the file system can do that.
#[cfg(target_os = "linux")]
fn share_blocks(source: &File, to: &Path) -> bool {
    let shared = regular::create(to).and_then(|copy| {
        rustix::fs::ioctl_ficlone(&copy, source)?;
        copy.sync_all()
    });
    shared.inspect_err(|_| drop(fs::remove_file(to))).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share_blocks(_: &File, _: &Path) -> bool {
    false
}

/// Creates a hard link to an open file if it belongs to this user and nobody else can write it: another owner might
/// change it later. The store never removes bytes of a layer in place, and a repair replaces a name, not the file.
fn link_own(tar: &File, from: &Path, to: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let is_own = tar.metadata().is_ok_and(|found| found.uid() == own && regular::is_safe(&found));
    if !is_own || fs::hard_link(from, to).is_err() {
        return false;
    }
    // Another process may have put another file there in the meantime.
    lock::is_at(tar, to) || {
        let _ = fs::remove_file(to);
        false
    }
}
