//! A repository of a registry as the destination.

use std::path::PathBuf;
use std::sync::Arc;

use super::destination::{Destination, Document};
use super::error::PushError;
use crate::registry::{Target, UploadBlob};
use crate::{BlobDigest, Digest, LayerSource, Observer, Origin, PullOptions, Reference};

/// From how many repositories a blob is tried to be mounted.
const TRIES: usize = 3;

#[derive(Debug)]
pub(super) struct RegistryDestination {
    target: Target,
    reference: Reference,
}

impl RegistryDestination {
    /// `notes` is a directory for notes about uploads that end early.
    pub(super) fn open(
        reference: &Reference,
        mounted_from: Vec<String>,
        options: &PullOptions,
        notes: PathBuf,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self, PushError> {
        let target = Target::open(reference, mounted_from, options, notes, observer)?;
        Ok(Self { target, reference: reference.clone() })
    }

    /// Gives the name to a document that it has everything of.
    pub(super) fn publish(&self, document: &Document) -> Result<(), PushError> {
        let digest = document.digest.to_string();
        let name = match self.reference.digest() {
            Some(_) => &digest,
            None => self.reference.tag().unwrap_or("latest"),
        };
        Ok(self.target.put_manifest(name, &document.media_type, &document.bytes)?)
    }
}

impl Destination for RegistryDestination {
    fn has_blob(&self, digest: &BlobDigest) -> Result<bool, PushError> {
        Ok(self.target.has_blob(digest)?)
    }

    fn mount(&self, digest: &BlobDigest, sources: &[LayerSource]) -> Result<bool, PushError> {
        let fitting = sources.iter().filter(|source| source.compressed == *digest);
        for repository in fitting.filter_map(|source| repository_in(source, &self.reference)).take(TRIES) {
            if self.target.mount(digest, repository)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn put_blob(&self, blob: &UploadBlob, name: &str) -> Result<(), PushError> {
        Ok(self.target.upload(blob, name)?)
    }

    fn has_document(&self, digest: &Digest) -> Result<bool, PushError> {
        Ok(self.target.has_manifest(digest)?)
    }

    fn put_document(&self, document: &Document) -> Result<(), PushError> {
        Ok(self.target.put_manifest(&document.digest.to_string(), &document.media_type, &document.bytes)?)
    }

    fn source(&self, digest: &BlobDigest, media_type: &str, bytes: u64) -> Option<LayerSource> {
        let (registry, repository) = (self.reference.registry().to_owned(), self.reference.repository().to_owned());
        let origin = Origin::Registry { registry, repository };
        Some(LayerSource { origin, compressed: *digest, media_type: media_type.to_owned(), bytes, urls: Vec::new() })
    }

    fn shares_access_with(&self, registry: &str) -> bool {
        self.reference.registry() == registry
    }

    fn cancel(&self) {
        self.target.cancel();
    }
}

/// Returns the repository in which a source has a layer, if it is another one of the registry of `to`.
pub(super) fn repository_in<'a>(source: &'a LayerSource, to: &Reference) -> Option<&'a str> {
    match &source.origin {
        Origin::Registry { registry, repository } if registry == to.registry() && repository != to.repository() => {
            Some(repository)
        }
        _ => None,
    }
}
