//! Layers: blobs and their indexes.

use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::path::Path;
use std::sync::Arc;

use super::Store;
use super::error::StoreError;
use super::lock::FileLock;
use crate::durable;
use crate::fault::{self, FaultPoint};
use crate::ingest::{self, ExpectedLayer, IngestError, IngestedLayer};
use crate::layer::LayerIndex;
use crate::lease::Held;
use crate::mapped::IndexBytes;
use crate::view::ViewLayer;
use crate::{DiffId, Digest, LayerSource};

/// The right to bring in one layer; others wait until it is dropped or its holder dies.
#[derive(Debug)]
pub struct LayerLock {
    _lock: FileLock,
}

impl Store {
    /// Whether a layer is in the store. It stays for as long as this `Store` does.
    #[must_use]
    pub fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.hold_layer(diff_id).is_ok()
    }

    /// Bytes of a layer's tar.
    #[must_use]
    pub fn layer_bytes(&self, diff_id: &DiffId) -> Option<u64> {
        fs::metadata(self.layout.blob(diff_id)).ok().map(|blob| blob.len())
    }

    fn hold_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        let blob = self.layout.blob(diff_id);
        self.holding(|| match blob.is_file() {
            true => Ok(((), vec![Held::Layer(*diff_id)])),
            false => Err(StoreError::NoSuchLayer(*diff_id)),
        })
    }

    /// The layer that once came as bytes with this digest, if the store still has it.
    #[must_use]
    pub fn layer_by_compressed(&self, compressed: &Digest) -> Option<DiffId> {
        let text = fs::read_to_string(self.layout.compressed(compressed)).ok()?;
        let diff_id = text.trim_end().parse().ok()?;
        self.has_layer(&diff_id).then_some(diff_id)
    }

    /// Waits until nobody else, in this process or another, brings in this layer. `waiting` is told before the
    /// first wait; the wait ends with an error when `give_up` turns true.
    pub fn lock_layer(
        &self,
        diff_id: &DiffId,
        waiting: &mut dyn FnMut(),
        give_up: &dyn Fn() -> bool,
    ) -> Result<LayerLock, StoreError> {
        let path = self.layout.lock(&format!("layer-{}", diff_id.0.hex()));
        let lock = FileLock::wait(&path, waiting, give_up)?;
        fault::point(FaultPoint::LayerClaimed);
        Ok(LayerLock { _lock: lock })
    }

    /// Streams one layer into the store: gzip, zstd or plain, as its first bytes tell.
    ///
    /// `source` is read to its end. On any error the store is as it was.
    pub fn ingest(
        &self,
        source: &mut (dyn Read + Send),
        expected: &ExpectedLayer,
    ) -> Result<IngestedLayer, IngestError> {
        let staging = self.staging()?;
        let made = ingest::ingest(source, staging.path(), expected, &self.limits)?;
        let was_present = self.publish_layer(staging.path(), &made.diff_id)?;
        fault::point(FaultPoint::LayerKept);
        self.remember_compressed(&made.diff_id, &made.compressed_digest).unwrap_or_else(|error| forget(&error));
        Ok(IngestedLayer { was_present, ..made })
    }

    /// Gives a finished layer its place; says whether another was there first.
    fn publish_layer(&self, staging: &Path, diff_id: &DiffId) -> Result<bool, StoreError> {
        let place = self.layout.layer(diff_id);
        let layers = self.layout.layers();
        self.holding(|| {
            let held = vec![Held::Layer(*diff_id)];
            match fs::rename(staging, &place) {
                Ok(()) => {
                    fault::point(FaultPoint::LayerPublished);
                    durable::sync_directory(&layers).map(|()| (false, held))
                }
                Err(_) if place.join("blob").is_file() => Ok((true, held)),
                Err(cause) => Err(StoreError::io(&place)(cause)),
            }
        })
    }

    /// Notes that a layer came with this digest, so that it is not fetched again under that name.
    fn remember_compressed(&self, diff_id: &DiffId, compressed: &Digest) -> Result<(), StoreError> {
        let path = self.layout.compressed(compressed);
        if path.exists() {
            return Ok(());
        }
        let staging = self.staging()?;
        let written = staging.path().join("compressed");
        fs::write(&written, format!("{diff_id}\n")).map_err(StoreError::io(&written))?;
        fs::rename(&written, &path).map_err(StoreError::io(&path))
    }

    /// Keeps where a layer's bytes can be had again, for `verify --repair` and for pushing it as it was.
    pub(crate) fn remember_source(&self, diff_id: &DiffId, source: &LayerSource) -> Result<(), StoreError> {
        let mut sources = self.layer_sources(diff_id);
        if sources.contains(source) {
            return Ok(());
        }
        sources.insert(0, source.clone());
        let staging = self.staging()?;
        let written = staging.path().join("sources");
        fs::write(&written, serde_json::to_vec(&sources).unwrap_or_default()).map_err(StoreError::io(&written))?;
        fault::point(FaultPoint::SourcesStaged);
        let path = self.layout.layer(diff_id).join("sources");
        fs::rename(&written, &path).map_err(StoreError::io(&path))
    }

    /// Where a layer's bytes can be had again, the latest first; empty where nobody knows.
    #[must_use]
    pub fn layer_sources(&self, diff_id: &DiffId) -> Vec<LayerSource> {
        let text = fs::read(self.layout.layer(diff_id).join("sources")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Opens a layer's index; makes it anew from the blob where it is missing, damaged or of another version.
    pub(super) fn layer_index(&self, diff_id: &DiffId) -> Result<LayerIndex, StoreError> {
        let path = self.layout.layer_index(diff_id);
        let cause = match open_index(&path, diff_id) {
            Ok(index) => return Ok(index),
            Err(cause) => cause,
        };
        self.hold_layer(diff_id)?;
        let lock = self.layout.lock(&format!("index-{}", diff_id.0.hex()));
        let _lock = FileLock::wait(&lock, &mut || {}, &|| false)?;
        // Another process may have made it meanwhile.
        if let Ok(index) = open_index(&path, diff_id) {
            return Ok(index);
        }
        tracing::info!("layer {diff_id}: making its index anew: {cause}");
        self.rebuild_index(diff_id)?;
        open_index(&path, diff_id).map_err(|cause| StoreError::DamagedLayer { layer: *diff_id, cause })
    }

    fn rebuild_index(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        let blob_path = self.layout.blob(diff_id);
        let mut blob = File::open(&blob_path).map_err(StoreError::io(&blob_path))?;
        let staging = self.staging()?;
        let made = staging.path().join("index");
        let file = File::create_new(&made).map_err(StoreError::io(&made))?;
        ingest::index_blob(&mut blob, diff_id, BufWriter::new(file), self.limits.inodes)
            .map_err(|cause| StoreError::DamagedLayer { layer: *diff_id, cause: cause.to_string() })?;
        fault::point(FaultPoint::IndexRemade);
        let path = self.layout.layer_index(diff_id);
        fs::rename(&made, &path).map_err(StoreError::io(&path))
    }

    /// Opens a layer's tar.
    pub(crate) fn open_blob(&self, layer: &DiffId) -> Result<File, StoreError> {
        let path = self.layout.blob(layer);
        File::open(&path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => StoreError::NoSuchLayer(*layer),
            _ => StoreError::Io { path, cause },
        })
    }

    /// Opens a layer for a view.
    pub(super) fn view_layer(&self, diff_id: &DiffId) -> Result<ViewLayer, StoreError> {
        let index = self.layer_index(diff_id)?;
        let open = |layer: &DiffId| self.open_blob(layer).map(Arc::new);
        let donors = index.donors().map(|donor| open(&donor)).collect::<Result<_, _>>()?;
        Ok(ViewLayer { blob: open(diff_id)?, donors, index: Arc::new(index) })
    }
}

/// What is only noted to save a later fetch is no reason to fail when what it is about is in the store.
pub(super) fn forget(error: &StoreError) {
    tracing::info!("not noted: {error}");
}

pub(super) fn open_index(path: &Path, diff_id: &DiffId) -> Result<LayerIndex, String> {
    let bytes = File::open(path).and_then(|file| IndexBytes::map(&file)).map_err(|cause| cause.to_string())?;
    let index = LayerIndex::open(bytes).map_err(|cause| cause.to_string())?;
    if index.diff_id() == *diff_id { Ok(index) } else { Err("it is the index of another layer".into()) }
}
