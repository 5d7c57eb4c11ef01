//! Where an image goes, a repository of a registry or a layout, and the documents that name it there.

use super::error::PushError;
use crate::registry::UploadBlob;
use crate::{BlobDigest, Digest, LayerSource};

/// Takes blobs and documents. Its methods may be called from several threads.
pub(super) trait Destination: Sync {
    /// Whether it has a blob.
    fn has_blob(&self, digest: &BlobDigest) -> Result<bool, PushError>;

    /// Takes a blob from another place that it can reach by itself, if one of these is such a place. Returns whether it did.
    fn mount(&self, digest: &BlobDigest, sources: &[LayerSource]) -> Result<bool, PushError>;

    /// Takes a blob, whose digest has been verified. `name` stands for it in reports.
    fn put_blob(&self, blob: &UploadBlob, name: &str) -> Result<(), PushError>;

    /// Whether it has a manifest or index.
    fn has_document(&self, digest: &Digest) -> Result<bool, PushError>;

    /// Takes a manifest or index, without a name. Everything that it names must be there.
    fn put_document(&self, document: &Document) -> Result<(), PushError>;

    /// Notes where a layer can be fetched from again, if that is so.
    fn source(&self, digest: &BlobDigest, media_type: &str, bytes: u64) -> Option<LayerSource>;

    /// Whether the login and the certificates that were given are also for this registry.
    fn shares_access_with(&self, registry: &str) -> bool;

    /// Ends what is in progress.
    fn cancel(&self);
}

/// A manifest or an index, with the type that it is stored under.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Document {
    pub(crate) fn new(bytes: Vec<u8>, media_type: &str) -> Self {
        Self { digest: Digest::of(&bytes), media_type: media_type.to_owned(), bytes }
    }
}
