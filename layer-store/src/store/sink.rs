//! The interface of the store for pulls and imports.

use std::io::Read;
use std::sync::Arc;

use super::handle::Store;
use super::images::Images;
use super::layers::forget;
use crate::oci::partial::Partial;
use crate::oci::sink::{LayerSink, Named, SinkError};
use crate::{
    Acquired, DiffId, Digest, ExpectedLayer, ImportError, ImportOptions, ImportSource, IngestedLayer, Limits, Observer,
    PullError, PullOptions, Reference, RootfsOptions,
};

impl LayerSink for Store {
    fn claim(&self, layer: &DiffId, name: &str, observer: &dyn Observer) -> Result<Box<dyn Send>, SinkError> {
        Ok(Box::new(self.layers().lock(layer, name, observer)?))
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_layer(&self, layer: &DiffId) -> bool {
        // A layer that only a store of another user has is copied, unless its digest is wrong.
        self.hold_layer(layer).is_ok()
    }

    fn layer_bytes(&self, layer: &DiffId) -> Option<u64> {
        self.layers().bytes(layer)
    }

    fn adopt(&self, layer: &DiffId) -> Result<(), SinkError> {
        Ok(self.layers().adopt([layer])?)
    }

    fn layer_by_compressed(&self, compressed: &Digest) -> Option<DiffId> {
        self.layers().by_compressed(compressed)
    }

    fn partial(&self, compressed: &Digest, size: u64) -> Option<Partial> {
        Partial::open(&self.layout.partials(), compressed, size)
    }

    fn ingest(&self, source: &mut (dyn Read + Send), expected: &ExpectedLayer) -> Result<IngestedLayer, SinkError> {
        Ok(self.layers().ingest(source, expected)?)
    }

    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.images().manifest_bytes(digest).ok()
    }

    fn put_manifest(&self, document: &[u8]) -> Result<Digest, SinkError> {
        Ok(self.images().put_manifest(document)?)
    }

    fn named(&self, reference: &str) -> Option<Digest> {
        let (images, _) = self.own_names().ok()?;
        images.into_iter().find(|image| image.reference == reference).map(|image| image.manifest_digest)
    }

    fn name(&self, reference: &str, named: &Named) -> Result<(), SinkError> {
        Ok(self.images().name(reference, named)?)
    }
}

impl Images<'_> {
    /// Fetches the image that `reference` names from its registry into the store, and gives it that name.
    ///
    /// Layers that the store already has, known by their DiffID or by the digest of their compressed form, are not
    /// fetched.
    pub fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Acquired, PullError> {
        let acquired = crate::registry::pull_into(self.store, reference, options, observer)?;
        self.store.remember_sources(&acquired);
        Ok(acquired)
    }

    /// Returns the names of all images that a registry has in the repository of `reference`.
    pub fn tags(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Vec<Reference>, PullError> {
        crate::registry::tags(reference, options, observer)
    }

    /// Imports the images of an archive or layout into the store, and names them.
    pub fn import(
        &self,
        source: &ImportSource,
        options: &ImportOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Vec<Acquired>, ImportError> {
        let images = crate::archive::import_into(self.store, source, options, observer)?;
        images.iter().for_each(|acquired| self.store.remember_sources(acquired));
        Ok(images)
    }

    /// Imports the tar of a file system, such as `docker export` writes, as an image of one layer.
    pub fn import_rootfs(
        &self,
        source: &ImportSource,
        reference: &Reference,
        options: &RootfsOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Acquired, ImportError> {
        let image = crate::archive::import_rootfs_into(self.store, source, reference, options, observer)?;
        self.store.remember_sources(&image);
        Ok(image)
    }
}

impl Store {
    fn remember_sources(&self, acquired: &Acquired) {
        for layer in acquired.layers.iter().chain(acquired.others.iter().flat_map(|other| &other.layers)) {
            self.remember_source(&layer.diff_id, &layer.source).unwrap_or_else(|error| forget(&error));
        }
    }
}
