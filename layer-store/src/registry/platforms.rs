//! Everything that an image index leads to, for a pull of all platforms.

use super::describe::Describe;
use super::{PullError, PullOptions};
use crate::oci::choose::INDEX_DEPTH;
use crate::oci::manifest::{self, CONFIG_LIMIT, Config, Descriptor, Document, Index, MANIFEST_LIMIT, Manifest};
use crate::oci::platform::{Described, Platform};
use crate::{Digest, Observer};

/// How many documents of one index are fetched.
const MOST: usize = 500;

/// The largest document of an attestation and the like that is kept, in bytes.
const DOCUMENT_LIMIT: u64 = 16 << 20;

/// An image for a platform.
#[derive(Debug)]
pub(super) struct OtherImage {
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) config: Config,
    pub(super) platform: Platform,
}

/// What an index leads to.
#[derive(Debug, Default)]
pub(super) struct Everything {
    pub(super) images: Vec<OtherImage>,
    /// The manifests and indexes, in the order in which they were found.
    pub(super) manifests: Vec<Digest>,
    /// Every document, byte for byte.
    pub(super) documents: Vec<Vec<u8>>,
}

impl Describe<'_> {
    /// Fetches every document that an index leads to, except layers.
    pub(super) fn everything(&self, index: &[u8], options: &PullOptions) -> Result<Everything, PullError> {
        let mut found = Everything::default();
        let wanted = options.platform.clone().unwrap_or_else(Platform::host);
        if let Document::Index(index) = manifest::parse(index, None).map_err(|cause| self.bad(cause))? {
            self.entries(index, &wanted, 0, &mut found)?;
        }
        Ok(found)
    }

    fn entries(&self, index: Index, wanted: &Platform, depth: usize, found: &mut Everything) -> Result<(), PullError> {
        for entry in index.entries {
            let Some(digest) = entry.descriptor.digest.sha256() else {
                self.skip(&entry.descriptor, "it has no SHA-256 digest");
                continue;
            };
            if found.manifests.contains(&digest) || found.manifests.len() >= MOST {
                continue;
            }
            let bytes = match self.fetch("manifest", &entry.descriptor, MANIFEST_LIMIT) {
                Err(error @ PullError::NotFound { .. }) => {
                    self.skip(&entry.descriptor, &error.to_string());
                    continue;
                }
                fetched => fetched?,
            };
            match manifest::parse(&bytes, Some(&entry.descriptor.media_type)) {
                Ok(Document::Index(inner)) if depth < INDEX_DEPTH => self.entries(inner, wanted, depth + 1, found)?,
                Ok(Document::Index(_)) => continue,
                Ok(Document::Manifest(manifest)) => {
                    let image = self.image_of(manifest, digest, (&entry.platform, wanted), found)?;
                    found.images.push(image);
                }
                Err(_) if !self.documents_of(&bytes, found)? => {
                    self.skip(&entry.descriptor, "it is no image, and too large for a document");
                    continue;
                }
                Err(_) => {}
            }
            found.manifests.push(digest);
            found.documents.push(bytes);
        }
        Ok(())
    }

    fn image_of(
        &self,
        manifest: Manifest,
        manifest_digest: Digest,
        (entry, wanted): (&Described, &Platform),
        found: &mut Everything,
    ) -> Result<OtherImage, PullError> {
        let bytes = self.fetch("config", &manifest.config, CONFIG_LIMIT)?;
        let config = manifest::parse_config(&bytes, manifest.layers.len()).map_err(|cause| self.bad(cause))?;
        let platform = config.platform.clone().or(entry).assumed(wanted);
        found.documents.push(bytes);
        Ok(OtherImage { manifest, manifest_digest, config, platform })
    }

    /// Fetches what a manifest names that is not one of an image, such as an attestation. Returns whether it is small enough
    /// to be kept.
    fn documents_of(&self, bytes: &[u8], found: &mut Everything) -> Result<bool, PullError> {
        let Some(blobs) = manifest::blobs(bytes) else { return Ok(false) };
        if blobs.iter().any(|blob| blob.size > DOCUMENT_LIMIT || blob.digest.sha256().is_none()) {
            return Ok(false);
        }
        for blob in &blobs {
            let document = self.fetch("document", blob, DOCUMENT_LIMIT)?;
            found.documents.push(document);
        }
        Ok(true)
    }

    fn skip(&self, descriptor: &Descriptor, cause: &str) {
        let name = self.reference.familiar();
        self.halt.notice(&format!("{name}: {} is left out: {cause}", descriptor.digest));
    }
}
