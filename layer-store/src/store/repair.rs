//! Repairs damaged layers.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handle::Store;
use super::layers::Layers;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lease::Held;
use crate::oci::sink::{LayerSink, Named, SinkError};
use crate::policy::ImagePolicy;
use crate::sharing::blob;
use crate::{
    DiffId, Digest, ExpectedLayer, ImportError, ImportOptions, ImportSource, IngestError, IngestedLayer, Limits,
    Observer, Origin, PullError, PullOptions, archive, durable, ingest, registry, regular,
};

/// Why a layer cannot be repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The layer came from standard input, or its source was not recorded.
    #[error("it is not known where layer {0} can be fetched from")]
    NoSource(DiffId),
    /// The archive or layout that the layer was imported from can no longer be read.
    #[error("layer {layer}: {cause}")]
    Import {
        /// The layer.
        layer: DiffId,
        /// Why it cannot be read.
        #[source]
        cause: Box<ImportError>,
    },
    /// The layout or archive does not have this layer.
    #[error("{source_name} has no layer {layer}")]
    NotThere {
        /// The layout or archive.
        source_name: String,
        /// The layer.
        layer: DiffId,
    },
    /// The layer could not be fetched from the registry.
    #[error(transparent)]
    Fetch(Box<PullError>),
    /// The store could not store the layer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Layers<'_> {
    /// Replaces a damaged layer: reads it from the layout or archive `from`, or else fetches it from the registry that
    /// it came from, or else reads it from what it was imported from. The damaged one stays until the new one is
    /// complete, and running mounts keep what they have open. On failure the store is unchanged.
    pub fn repair(
        &self,
        layer: &DiffId,
        from: Option<&Path>,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), RepairError> {
        if let Some(path) = from {
            return self.store.import_again(layer, path, observer);
        }
        let sources = self.sources(layer);
        if let Some(source) = sources.iter().find(|source| matches!(source.origin, Origin::Registry { .. })) {
            let fetched = registry::fetch_layer(&Replacing::new(self.store, *layer), layer, source, options, observer);
            return fetched.map(drop).map_err(|error| RepairError::Fetch(Box::new(error)));
        }
        let mut paths = sources.iter().filter_map(|source| match &source.origin {
            Origin::Archive(path) if path != "-" => Some(Path::new(path)),
            _ => None,
        });
        let path = paths.next().ok_or(RepairError::NoSource(*layer))?;
        self.store.import_again(layer, path, observer)
    }
}

impl Store {
    /// Reads a layer again from a layout or an archive. This does not name any image.
    fn import_again(&self, layer: &DiffId, path: &Path, observer: &Arc<dyn Observer>) -> Result<(), RepairError> {
        let source = ImportSource::Path(path.to_owned());
        // The layer has been in the store, and its digest says what it is.
        let import = ImportOptions { policy: ImagePolicy::AcceptAnything, ..ImportOptions::default() };
        let sink = Replacing::new(self, *layer);
        let imported = archive::import_into(&sink, &source, &import, observer);
        // Other errors in the archive do not matter then.
        if sink.is_replaced.load(Ordering::Relaxed) {
            return Ok(());
        }
        match imported {
            Ok(_) => Err(RepairError::NotThere { source_name: source.to_string(), layer: *layer }),
            Err(cause) => Err(RepairError::Import { layer: *layer, cause: Box::new(cause) }),
        }
    }

    /// Ingests a layer and replaces its blob and index.
    fn ingest_over(
        &self,
        source: &mut (dyn Read + Send),
        expected: &ExpectedLayer,
    ) -> Result<IngestedLayer, IngestError> {
        let staging = self.staging()?;
        // Whole: layers that borrow from it must find everything in it.
        let (made, _, new) = ingest::ingest(source, staging.path(), expected, &self.limits, None)?;
        new.write_contents();
        // A collection may have removed the damaged layer, and its directory.
        self.holding(|| self.put_over(staging.path(), &made.diff_id).map(|()| ((), vec![Held::Layer(made.diff_id)])))?;
        Ok(IngestedLayer { was_present: true, ..made })
    }

    /// Puts a whole layer in the place of one that is damaged or missing. The caller holds the store's shared lock.
    fn put_over(&self, staging: &Path, layer: &DiffId) -> Result<(), StoreError> {
        let place = self.layout.layer(layer);
        regular::make_directory(&place).map_err(StoreError::io(&place))?;
        // Each file works with the old version of the other: the tar is authoritative, whole before thin, and an index
        // that does not match it is rebuilt.
        for (name, published) in [(blob::WHOLE, FaultPoint::BlobRepaired), ("index", FaultPoint::IndexRepaired)] {
            let to = place.join(name);
            fs::rename(staging.join(name), &to).map_err(StoreError::io(&to))?;
            fault::point(published);
        }
        durable::sync_directory(&place)?;
        // The directory may be new.
        durable::sync_directory(&self.layout.layers())?;
        fault::point(FaultPoint::RepairSynced);
        // This is a cache, so an error is ignored.
        let _ = fs::rename(staging.join("contents"), place.join("contents"));
        for name in [blob::THIN, blob::MAP, blob::REMNANT] {
            let _ = fs::remove_file(place.join(name));
            fault::point(FaultPoint::RepairFirstSuperseded);
        }
        Ok(())
    }
}

/// A sink that only replaces the damaged layer: nothing else is added to the store, and no name changes.
struct Replacing<'store> {
    store: &'store Store,
    layer: DiffId,
    is_replaced: AtomicBool,
}

impl<'store> Replacing<'store> {
    fn new(store: &'store Store, layer: DiffId) -> Self {
        Self { store, layer, is_replaced: AtomicBool::new(false) }
    }
}

impl LayerSink for Replacing<'_> {
    fn claim(&self, layer: &DiffId, name: &str, observer: &dyn Observer) -> Result<Box<dyn Send>, SinkError> {
        self.store.claim(layer, name, observer)
    }

    fn limits(&self) -> Limits {
        self.store.limits
    }

    fn has_layer(&self, layer: &DiffId) -> bool {
        *layer != self.layer
    }

    fn layer_bytes(&self, layer: &DiffId) -> Option<u64> {
        self.store.layers().bytes(layer)
    }

    fn adopt(&self, _: &DiffId) -> Result<(), SinkError> {
        Ok(())
    }

    fn layer_by_compressed(&self, _: &Digest) -> Option<DiffId> {
        None
    }

    fn ingest(&self, source: &mut (dyn Read + Send), expected: &ExpectedLayer) -> Result<IngestedLayer, SinkError> {
        // In an archive that is read from start to end, the DiffID of a layer is known only after all of it was read. A
        // layer that was read completely is as good as the one that it replaces.
        let ingested = self.store.ingest_over(source, expected)?;
        if ingested.diff_id == self.layer {
            self.is_replaced.store(true, Ordering::Relaxed);
        }
        Ok(ingested)
    }

    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.store.manifest(digest)
    }

    fn put_manifest(&self, document: &[u8]) -> Result<Digest, SinkError> {
        Ok(Digest::of(document))
    }

    fn named(&self, _: &str) -> Option<Digest> {
        None
    }

    fn name(&self, _: &str, _: &Named) -> Result<(), SinkError> {
        Ok(())
    }
}
