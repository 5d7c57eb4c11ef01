//! Layers: blobs and their indexes.

use std::fs;
use std::io::{self, BufWriter, Cursor, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::disk::changeable;
use super::features::THIN_LAYERS;
use super::handle::Store;
use super::untrusted::not_copied;
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::ingest::{self, ExpectedLayer, IngestError, IngestedLayer};
use crate::layer::LayerIndex;
use crate::lease::Held;
use crate::lock::FileLock;
use crate::mapped::IndexBytes;
use crate::observer::{Logged, Observer, Silent};
use crate::regular;
use crate::sharing::{Blob, Lender, blob};
use crate::view::ViewLayer;
use crate::{DiffId, Digest, LayerSource};

/// How many sources of a layer are recorded.
const SOURCES_MAX: usize = 32;

/// The right to add one layer. Others wait until it is dropped or its holder dies.
#[derive(Debug)]
pub struct LayerLock {
    _lock: FileLock,
}

/// The operations on a store's layers: see [`Store::layers`].
#[derive(Clone, Copy, Debug)]
pub struct Layers<'store> {
    pub(crate) store: &'store Store,
}

impl Store {
    /// Returns the operations on its layers and those of its additional stores.
    #[must_use]
    pub fn layers(&self) -> Layers<'_> {
        Layers { store: self }
    }
}

impl Layers<'_> {
    /// Whether a layer is in the store or in an additional store. If so, it is kept until this `Store` is dropped,
    /// unless the only store that has it is one that others can change.
    #[must_use]
    pub fn has(&self, diff_id: &DiffId) -> bool {
        match self.store.hold_where_they_are([diff_id], &[]) {
            // A store that others can change keeps nothing for us: a layer of it is copied when it is used.
            Ok(missing) => missing.is_empty() || self.store_in(diff_id).is_some(),
            // What cannot be held, for example on a full disk, may be collected.
            Err(_) => false,
        }
    }

    /// Returns the length of a layer's tar in bytes.
    #[must_use]
    pub fn bytes(&self, diff_id: &DiffId) -> Option<u64> {
        let store = self.store_in(diff_id)?;
        fs::symlink_metadata(store.layout.tar(diff_id)?).ok().map(|tar| tar.len())
    }

    /// Returns the layer that was once added from bytes with this digest, if it still exists.
    #[must_use]
    pub fn by_compressed(&self, compressed: &Digest) -> Option<DiffId> {
        let noted = |store: &Store| {
            let text = regular::read_text(&store.layout.compressed(compressed), regular::NOTE_MAX).ok()?;
            text.trim_end().parse().ok()
        };
        self.store.trusted().filter_map(noted).find(|diff_id| self.has(diff_id))
    }

    /// Waits until no other thread or process adds this layer. `observer` is told about a wait, in which `name` stands
    /// for the layer, and can end it.
    pub fn lock(&self, diff_id: &DiffId, name: &str, observer: &dyn Observer) -> Result<LayerLock, StoreError> {
        let path = self.store.layout.layer_lock(diff_id);
        let lock = FileLock::wait(&path, observer, &format!("brings in layer {}", name.escape_debug()))?;
        fault::point(FaultPoint::LayerClaimed);
        Ok(LayerLock { _lock: lock })
    }

    /// Reads one layer into the store. Its first bytes tell how it is compressed.
    ///
    /// `source` is read to its end. On an error the store is unchanged.
    pub fn ingest(
        &self,
        source: &mut (dyn Read + Send),
        expected: &ExpectedLayer,
    ) -> Result<IngestedLayer, IngestError> {
        let staging = self.store.staging()?;
        let sharing = self.store.shares_files.then_some(self.store as &dyn Lender);
        let (made, tar, mut new) = ingest::ingest(source, staging.path(), expected, &self.store.limits, sharing)?;
        let placing = self.store.placing.lock();
        // Another thread may have added a layer since.
        if new.share(&tar) {
            tar.sync_all().map_err(|cause| StoreError::write(staging.path(), made.blob_bytes, cause))?;
            durable::sync_directory(staging.path())?;
        }
        new.write_contents();
        if new.is_thin() {
            self.store.use_feature(THIN_LAYERS)?;
            fault::point(FaultPoint::FeatureNoted);
        }
        let was_present = self.store.publish_layer(staging.path(), &made.diff_id)?;
        drop(placing);
        fault::point(FaultPoint::LayerKept);
        self.store.remember_compressed(&made.diff_id, &made.compressed_digest).unwrap_or_else(|error| forget(&error));
        Ok(IngestedLayer { was_present, ..made })
    }

    /// Returns where a layer's bytes can be fetched from again, the latest source first; empty if that is not known.
    #[must_use]
    pub fn sources(&self, diff_id: &DiffId) -> Vec<LayerSource> {
        let path = self.store.home(diff_id).layout.layer(diff_id).join("sources");
        let text = regular::read(&path, regular::NOTE_MAX).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

impl Store {
    pub(crate) fn hold_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        match self.hold_where_they_are([diff_id], &[])?.as_slice() {
            [] => Ok(()),
            _ => self.try_take_over(diff_id, &Logged),
        }
    }

    /// Moves a finished layer to its place. Returns whether the layer already existed.
    pub(super) fn publish_layer(&self, staging: &Path, diff_id: &DiffId) -> Result<bool, StoreError> {
        let place = self.layout.layer(diff_id);
        let layers = self.layout.layers();
        self.holding(|| {
            let held = vec![Held::Layer(*diff_id)];
            match fs::rename(staging, &place) {
                Ok(()) => {
                    fault::point(FaultPoint::LayerPublished);
                    durable::sync_directory(&layers).map(|()| (false, held))
                }
                Err(_) if self.layout.tar(diff_id).is_some() => Ok((true, held)),
                // A directory with the remnant of a collected layer, from which others borrow.
                Err(_) if place.is_dir() => {
                    fill_place(staging, &place)?;
                    fault::point(FaultPoint::LayerPublished);
                    durable::sync_directory(&place).map(|()| (false, held))
                }
                Err(cause) => Err(StoreError::io(&place)(cause)),
            }
        })
    }

    /// Records that a layer came with this digest, so that it is not fetched again by that digest.
    pub(crate) fn remember_compressed(&self, diff_id: &DiffId, compressed: &Digest) -> Result<(), StoreError> {
        let path = self.layout.compressed(compressed);
        let text = format!("{diff_id}\n");
        // This file is not synced: a power cut may have left only a part of it.
        if regular::read_text(&path, regular::NOTE_MAX).is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        let staging = self.staging()?;
        let written = staging.path().join("compressed");
        regular::write(&written, text.as_bytes()).map_err(StoreError::io(&written))?;
        fault::point(FaultPoint::CompressedStaged);
        fs::rename(&written, &path).map_err(StoreError::io(&path))
    }

    /// Records where a layer's bytes can be fetched from again, for repairs and for pushing it unchanged.
    pub(crate) fn remember_source(&self, diff_id: &DiffId, source: &LayerSource) -> Result<(), StoreError> {
        let mut sources = self.layers().sources(diff_id);
        // The records of another store are never written here.
        if sources.contains(source) || self.layers().store_of(diff_id) != Some(self.root()) {
            return Ok(());
        }
        sources.insert(0, source.clone());
        // A layer of many images may be pushed to many places.
        sources.truncate(SOURCES_MAX);
        let staging = self.staging()?;
        let written = staging.path().join("sources");
        regular::write(&written, &serde_json::to_vec(&sources).unwrap_or_default())
            .map_err(StoreError::io(&written))?;
        fault::point(FaultPoint::SourcesStaged);
        let path = self.layout.layer(diff_id).join("sources");
        fs::rename(&written, &path).map_err(StoreError::io(&path))
    }

    /// Opens a layer's index. Rebuilds it from the blob if it is missing, damaged or of another version.
    pub(super) fn layer_index(&self, diff_id: &DiffId) -> Result<LayerIndex, StoreError> {
        let home = self.home(diff_id);
        let mut path = home.layout.layer_index(diff_id);
        // An index that others can change may describe content that its layer does not have.
        let is_safe = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| regular::is_safe(&found));
        let opened = match std::ptr::eq(home, self) || is_safe(&path) {
            true => open_index(&path, diff_id),
            false => Err("it is missing, or others can change it".to_owned()),
        };
        let cause = match opened {
            Ok(index) => return Ok(index),
            Err(cause) => cause,
        };
        self.hold_layer(diff_id)?;
        if !std::ptr::eq(home, self) {
            path = self.layout.borrowed_index(diff_id);
            if let Ok(index) = open_index(&path, diff_id) {
                return Ok(index);
            }
        }
        tracing::info!("layer {diff_id}: rebuilding its index: {cause}");
        match self.remake_index(home, diff_id, &path) {
            Err(error) if error.is_closed() => home.index_in_memory(diff_id),
            made => made,
        }
    }

    /// Rebuilds the index of a layer of `home` at `path`, one process at a time.
    fn remake_index(&self, home: &Self, diff_id: &DiffId, path: &Path) -> Result<LayerIndex, StoreError> {
        let lock = self.layout.lock(&format!("index-{}", diff_id.0.hex()));
        let _lock = FileLock::wait(&lock, &Logged, &format!("makes the index of layer {diff_id}"))?;
        // Another process may have made it in the meantime.
        if let Ok(index) = open_index(path, diff_id) {
            return Ok(index);
        }
        let staging = self.staging()?;
        let made = staging.path().join("index");
        let file = regular::create(&made).map_err(StoreError::io(&made))?;
        home.index_blob(diff_id, (&made, BufWriter::new(file)))?;
        fault::point(FaultPoint::IndexRemade);
        // The directory of indexes of other stores' layers does not exist from the start.
        path.parent().map_or(Ok(()), regular::make_directory).map_err(StoreError::io(path))?;
        fs::rename(&made, path).map_err(StoreError::io(path))?;
        open_index(path, diff_id).map_err(|cause| StoreError::DamagedLayer { layer: *diff_id, cause })
    }

    /// Builds the index of a layer of this store in memory, for a process that may not write it. It reads the whole
    /// blob.
    fn index_in_memory(&self, diff_id: &DiffId) -> Result<LayerIndex, StoreError> {
        let mut made = Cursor::new(Vec::new());
        self.index_blob(diff_id, (Path::new("index"), &mut made))?;
        let index = LayerIndex::open(IndexBytes::Owned(made.into_inner()));
        index.map_err(|cause| StoreError::DamagedLayer { layer: *diff_id, cause: cause.to_string() })
    }

    fn index_blob<W: Write + Seek>(&self, diff_id: &DiffId, out: (&Path, W)) -> Result<(), StoreError> {
        let blob = self.open_blob(diff_id)?;
        let indexed = ingest::index_blob(&mut blob.reader(), diff_id, out, self.limits.inodes);
        indexed.map(drop).map_err(|error| not_copied(diff_id, error, &Silent))
    }

    /// Opens a layer's tar.
    pub(crate) fn open_blob(&self, layer: &DiffId) -> Result<Blob, StoreError> {
        let home = self.home(layer);
        let blob = home.open_own_blob(layer)?;
        // In this store, whose directory others may not write, any file is what this user has put there.
        let changeable = if std::ptr::eq(home, self) { None } else { changeable(&home.layout.layer(layer), &blob) };
        match changeable {
            Some(cause) => Err(StoreError::Untrusted { layer: *layer, store: home.root().to_owned(), cause }),
            None => Ok(blob),
        }
    }

    /// Opens the tar of a layer of this store.
    pub(super) fn open_own_blob(&self, layer: &DiffId) -> Result<Blob, StoreError> {
        Blob::open(&self.layout.layers(), layer)
    }

    /// Opens a layer for a view.
    pub(super) fn view_layer(&self, diff_id: &DiffId) -> Result<ViewLayer, StoreError> {
        let index = Arc::new(self.layer_index(diff_id)?);
        Ok(ViewLayer { blob: Arc::new(self.open_blob(diff_id)?), index })
    }
}

/// Moves the files of a finished layer to its place, the tar last: the layer exists once its tar does.
fn fill_place(staging: &Path, place: &Path) -> Result<(), StoreError> {
    for name in ["index", "contents", blob::MAP] {
        move_if_there(staging, place, name)?;
        fault::point(FaultPoint::LayerBegun);
    }
    fault::point(FaultPoint::LayerTarLast);
    [blob::THIN, blob::WHOLE].into_iter().try_for_each(|name| move_if_there(staging, place, name))
}

fn move_if_there(staging: &Path, place: &Path, name: &str) -> Result<(), StoreError> {
    let to = place.join(name);
    match fs::rename(staging.join(name), &to) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&to)(cause)),
        _ => Ok(()),
    }
}

/// Logs an error instead of failing, because what was not recorded only saves a later fetch.
pub(super) fn forget(error: &StoreError) {
    tracing::info!("not recorded: {error}");
}

pub(super) fn open_index(path: &Path, diff_id: &DiffId) -> Result<LayerIndex, String> {
    let bytes = IndexBytes::open(path).map_err(|cause| cause.to_string())?;
    let index = LayerIndex::open(bytes).map_err(|cause| cause.to_string())?;
    if index.diff_id() == *diff_id { Ok(index) } else { Err("it is the index of another layer".into()) }
}
