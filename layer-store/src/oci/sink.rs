//! Where fetched layers go: the part of the store that a pull and an import need.

use std::io::Read;

use super::partial::Partial;
use crate::{DiffId, Digest, ExpectedLayer, IngestedLayer, Limits, Observer};

/// Whatever the store says went wrong; its text names the thing and the remedy.
pub(crate) type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps layers and documents. Its methods may be called from several threads at once.
pub(crate) trait LayerSink: Sync {
    /// Waits until no other thread or process brings in this layer, then keeps others
    /// waiting until the claim is dropped or its process dies. `observer` is told of a wait, with `name` for the
    /// layer, and can end it, which is an error.
    fn claim(&self, layer: &DiffId, name: &str, observer: &dyn Observer) -> Result<Box<dyn Send>, SinkError>;

    /// What a layer may cost.
    fn limits(&self) -> Limits;

    /// Whether the layer is in the store, complete.
    fn has_layer(&self, layer: &DiffId) -> bool;

    /// Bytes of the tar of a layer that the store has.
    fn layer_bytes(&self, layer: &DiffId) -> Option<u64>;

    /// Brings a layer that `has_layer` into the store itself, where it is only in one that is read also.
    fn adopt(&self, layer: &DiffId) -> Result<(), SinkError>;

    /// The layer that came, some time, as bytes with this digest, if the store still has it.
    fn layer_by_compressed(&self, compressed: &Digest) -> Option<DiffId>;

    /// The part of a layer of `size` bytes that arrived earlier, to go on from, and to add to what arrives now. `None`
    /// where nothing can be kept.
    fn partial(&self, compressed: &Digest, size: u64) -> Option<Partial> {
        let _ = (compressed, size);
        None
    }

    /// Reads `source` to its end, verifies it and keeps it; on any error the store is as it was.
    fn ingest(&self, source: &mut (dyn Read + Send), expected: &ExpectedLayer) -> Result<IngestedLayer, SinkError>;

    /// A manifest or config that the store has, its digest proved.
    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>>;

    /// Keeps a manifest or config, byte for byte.
    fn put_manifest(&self, document: &[u8]) -> Result<Digest, SinkError>;

    /// The manifest that `reference` means in the store.
    fn named(&self, reference: &str) -> Option<Digest>;

    /// Makes `reference` mean the manifest with this digest from now on. Everything it needs is in
    /// the store by then.
    fn tag(&self, reference: &str, manifest: &Digest) -> Result<(), SinkError>;
}
