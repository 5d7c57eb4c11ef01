//! Fetches damaged layers again.

use std::fs;
use std::io::Read;
use std::sync::Arc;

use super::Store;
use super::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::oci::sink::{LayerSink, SinkError};
use crate::sharing::blob;
use crate::{
    DiffId, Digest, ExpectedLayer, IngestError, IngestedLayer, Origin, Progress, PullError, PullOptions, durable,
    ingest, registry,
};

/// Why a layer cannot be repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// It was imported, or nobody kept where it came from.
    #[error(
        "no registry is known that layer {0} came from; remove the images that have it (`lamina rmi`), run `lamina gc`, and import them again"
    )]
    NoSource(DiffId),
    /// The registry did not give it.
    #[error(transparent)]
    Fetch(Box<PullError>),
    /// The store could not keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Fetches a damaged layer again from the registry that it came from, and puts it in the place of the damaged one,
    /// which stays there until the new one is whole. Running mounts keep what they have open. Where it cannot be had, the
    /// store is as it was.
    pub fn repair_layer(
        &self,
        layer: &DiffId,
        options: &PullOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), RepairError> {
        let sources = self.layer_sources(layer);
        let Some(source) = sources.iter().find(|source| matches!(source.origin, Origin::Registry { .. })) else {
            return Err(RepairError::NoSource(*layer));
        };
        let fetched = registry::fetch_layer(&Replacing(self), layer, source, options, progress);
        fetched.map(drop).map_err(|error| RepairError::Fetch(Box::new(error)))
    }

    /// Ingests a layer and puts its blob and index over those that are there.
    fn ingest_over(
        &self,
        source: &mut (dyn Read + Send),
        expected: &ExpectedLayer,
    ) -> Result<IngestedLayer, IngestError> {
        let staging = self.staging()?;
        // Whole: who borrows from it must find everything in it.
        let (made, _, new) = ingest::ingest(source, staging.path(), expected, &self.limits, None)?;
        new.write_contents();
        let place = self.layout.layer(&made.diff_id);
        fs::create_dir_all(&place).map_err(StoreError::io(&place))?;
        // Each is sound with the other's predecessor: the tar is the truth, whole before thin, and an index that does not
        // fit is made anew.
        for (name, published) in [(blob::WHOLE, FaultPoint::BlobRepaired), ("index", FaultPoint::IndexRepaired)] {
            let to = place.join(name);
            fs::rename(staging.path().join(name), &to).map_err(StoreError::io(&to))?;
            fault::point(published);
        }
        durable::sync_directory(&place)?;
        // A cache, and no reason to fail.
        let _ = fs::rename(staging.path().join("contents"), place.join("contents"));
        for name in [blob::THIN, blob::MAP, blob::REST] {
            let _ = fs::remove_file(place.join(name));
        }
        Ok(IngestedLayer { was_present: true, ..made })
    }
}

/// The store for a fetch of what it has already, damaged.
struct Replacing<'store>(&'store Store);

impl LayerSink for Replacing<'_> {
    fn claim(
        &self,
        layer: &DiffId,
        waiting: &mut dyn FnMut(),
        give_up: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Send>, SinkError> {
        self.0.claim(layer, waiting, give_up)
    }

    fn has_layer(&self, _: &DiffId) -> bool {
        false
    }

    fn adopt(&self, layer: &DiffId) -> Result<(), SinkError> {
        LayerSink::adopt(self.0, layer)
    }

    fn layer_by_compressed(&self, _: &Digest) -> Option<DiffId> {
        None
    }

    fn ingest(&self, source: &mut (dyn Read + Send), expected: &ExpectedLayer) -> Result<IngestedLayer, SinkError> {
        Ok(self.0.ingest_over(source, expected)?)
    }

    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.manifest(digest)
    }

    fn put_manifest(&self, document: &[u8]) -> Result<Digest, SinkError> {
        LayerSink::put_manifest(self.0, document)
    }

    fn tag(&self, reference: &str, manifest: &Digest) -> Result<(), SinkError> {
        LayerSink::tag(self.0, reference, manifest)
    }
}
