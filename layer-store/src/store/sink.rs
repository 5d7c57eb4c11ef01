//! The store as a pull and an import see it.

use std::io::Read;
use std::sync::Arc;

use super::Store;
use super::layers::forget;
use crate::oci::sink::{LayerSink, SinkError};
use crate::{
    Acquired, DiffId, Digest, ExpectedLayer, ImportError, ImportOptions, ImportSource, IngestedLayer, Progress,
    PullError, PullOptions, Reference,
};

impl LayerSink for Store {
    fn claim(
        &self,
        layer: &DiffId,
        waiting: &mut dyn FnMut(),
        give_up: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Send>, SinkError> {
        Ok(Box::new(self.lock_layer(layer, waiting, give_up)?))
    }

    fn has_layer(&self, layer: &DiffId) -> bool {
        Self::has_layer(self, layer)
    }

    fn adopt(&self, layer: &DiffId) -> Result<(), SinkError> {
        Ok(Self::adopt(self, [layer])?)
    }

    fn layer_by_compressed(&self, compressed: &Digest) -> Option<DiffId> {
        Self::layer_by_compressed(self, compressed)
    }

    fn ingest(&self, source: &mut (dyn Read + Send), expected: &ExpectedLayer) -> Result<IngestedLayer, SinkError> {
        Ok(Self::ingest(self, source, expected)?)
    }

    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.manifest_bytes(digest).ok()
    }

    fn put_manifest(&self, document: &[u8]) -> Result<Digest, SinkError> {
        Ok(Self::put_manifest(self, document)?)
    }

    fn tag(&self, reference: &str, manifest: &Digest) -> Result<(), SinkError> {
        Ok(Self::tag(self, reference, manifest)?)
    }
}

impl Store {
    /// Brings the image that `reference` names in its registry into the store, and gives it that name here.
    ///
    /// Layers that the store has, under their DiffID or under the digest they travel with, are not fetched.
    pub fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Acquired, PullError> {
        let acquired = crate::registry::pull_into(self, reference, options, progress)?;
        self.remember_sources(&acquired);
        Ok(acquired)
    }

    /// Brings the images of an archive or layout into the store, and names them here.
    pub fn import(
        &self,
        source: &ImportSource,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<Acquired>, ImportError> {
        let images = crate::archive::import_into(self, source, options, progress)?;
        images.iter().for_each(|acquired| self.remember_sources(acquired));
        Ok(images)
    }

    fn remember_sources(&self, acquired: &Acquired) {
        for layer in &acquired.layers {
            self.remember_source(&layer.diff_id, &layer.source).unwrap_or_else(|error| forget(&error));
        }
    }
}
