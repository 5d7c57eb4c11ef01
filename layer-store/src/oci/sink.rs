//! Where fetched layers go: the part of the store that a pull and an import need.

use std::io::Read;

use super::partial::Partial;
use crate::{DiffId, Digest, ExpectedLayer, IngestedLayer, Limits, Observer};

/// An error of the store. Its text names the thing and the remedy.
pub(crate) type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// What a name refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The manifest of the image for one platform.
    pub(crate) manifest: Digest,
    /// The index that led to it, if there was one.
    pub(crate) index: Option<Digest>,
    /// Other manifests that the index leads to and that are kept too.
    pub(crate) others: Vec<Digest>,
}

impl Named {
    /// A manifest without an index.
    pub(crate) fn of(manifest: Digest) -> Self {
        Self { manifest, index: None, others: Vec::new() }
    }
}

/// Keeps layers and documents. Its methods may be called from several threads at once.
pub(crate) trait LayerSink: Sync {
    /// Waits until no other thread or process brings in this layer, and then makes others wait until the claim is
    /// dropped or this process dies. `observer` is told of a wait, with `name` for the layer, and can cancel it, which
    /// is an error.
    fn claim(&self, layer: &DiffId, name: &str, observer: &dyn Observer) -> Result<Box<dyn Send>, SinkError>;

    /// Returns the limits for a layer.
    fn limits(&self) -> Limits;

    /// Returns whether the complete layer is in the store.
    fn has_layer(&self, layer: &DiffId) -> bool;

    /// Returns the size of the tar of a layer in the store, in bytes.
    fn layer_bytes(&self, layer: &DiffId) -> Option<u64>;

    /// Brings a layer for which `has_layer` is true into the store itself, if only an additional store has it.
    fn adopt(&self, layer: &DiffId) -> Result<(), SinkError>;

    /// Returns the layer whose compressed bytes have this digest, if the store has it.
    fn layer_by_compressed(&self, compressed: &Digest) -> Option<DiffId>;

    /// Returns the part of a layer of `size` bytes that arrived earlier, to continue from it and to add what arrives
    /// now. Returns `None` if nothing can be kept.
    fn partial(&self, compressed: &Digest, size: u64) -> Option<Partial> {
        let _ = (compressed, size);
        None
    }

    /// Reads `source` to its end, verifies it and stores it. After an error the store has not changed.
    fn ingest(&self, source: &mut (dyn Read + Send), expected: &ExpectedLayer) -> Result<IngestedLayer, SinkError>;

    /// Returns a manifest or config of the store, whose digest has been verified.
    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>>;

    /// Stores a manifest or config, byte for byte.
    fn put_manifest(&self, document: &[u8]) -> Result<Digest, SinkError>;

    /// Returns the manifest that `reference` refers to in the store.
    fn named(&self, reference: &str) -> Option<Digest>;

    /// Makes `reference` refer to a manifest. Everything that it needs must already be in the store.
    fn name(&self, reference: &str, named: &Named) -> Result<(), SinkError>;
}
