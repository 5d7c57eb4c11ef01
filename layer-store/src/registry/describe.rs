//! From a name to the manifest and config of one platform, verified.

use super::client::{Answer, Repository};
use super::{PullError, PullOptions};
use crate::oci::ImageError;
use crate::oci::manifest::{self, CONFIG_LIMIT, Config, Descriptor, Document, Manifest};
use crate::oci::platform::{self, Platform};
use crate::oci::sink::LayerSink;
use crate::{Progress, Reference};

/// Indexes within indexes that are followed. One is rare, two are unheard of.
const INDEX_DEPTH: usize = 3;

/// An image as its registry describes it, before any layer is fetched.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) config: Config,
    pub(super) config_bytes: Vec<u8>,
}

/// Asks for documents. What is named by its digest comes from the store where it is there; what a tag
/// means by now, every pull asks.
pub(super) struct Describe<'a> {
    pub(super) sink: &'a dyn LayerSink,
    pub(super) repository: &'a Repository,
    pub(super) reference: &'a Reference,
    pub(super) options: &'a PullOptions,
    pub(super) progress: &'a dyn Progress,
}

impl Describe<'_> {
    /// The image for the platform that is wanted.
    pub(super) async fn image(&self) -> Result<Described, PullError> {
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let (manifest, manifest_bytes) = self.manifest(&wanted).await?;
        let config_bytes = self.config(&manifest.config).await?;
        let config = manifest::parse_config(&config_bytes, manifest.layers.len()).map_err(|e| self.bad(e))?;
        if wanted.distance_to(&config.platform).is_none() {
            // There was no index to choose from, or it lied. Who asked for a platform gets no other one.
            let offered = config.platform.to_string();
            if self.options.platform.is_some() {
                return Err(self.bad(ImageError::NoSuchPlatform { wanted, offered }));
            }
            self.progress.notice(&format!("{} is for {offered}, this host is {wanted}", self.reference.familiar()));
        }
        Ok(Described { manifest, manifest_bytes, config, config_bytes })
    }

    /// The manifest behind the name, through indexes.
    async fn manifest(&self, wanted: &Platform) -> Result<(Manifest, Vec<u8>), PullError> {
        let Answer { mut bytes, mut content_type } = self.named().await?;
        let mut depth = 0;
        loop {
            let entries = match manifest::parse(&bytes, content_type.as_deref()).map_err(|e| self.bad(e))? {
                Document::Manifest(manifest) => return Ok((manifest, bytes)),
                Document::Index(entries) => entries,
            };
            let Some(entry) = platform::choose(&entries, wanted).filter(|_| depth < INDEX_DEPTH) else {
                let offered = platform::offered(&entries);
                return Err(self.bad(ImageError::NoSuchPlatform { wanted: wanted.clone(), offered }));
            };
            let descriptor = Descriptor::new(&entry.media_type, &entry.digest, entry.size).map_err(|e| self.bad(e))?;
            bytes = match self.sink.manifest(&descriptor.digest) {
                Some(kept) => kept,
                None => self.repository.manifest(&entry.digest).await?.bytes,
            };
            descriptor.verify("manifest", &bytes).map_err(|e| self.bad(e))?;
            content_type = Some(descriptor.media_type);
            depth += 1;
        }
    }

    /// The document that the name leads to.
    async fn named(&self) -> Result<Answer, PullError> {
        let Some(digest) = self.reference.digest() else {
            return self.repository.manifest(self.reference.tag().unwrap_or("latest")).await;
        };
        if let Some(bytes) = self.sink.manifest(&digest) {
            return Ok(Answer { bytes, content_type: None });
        }
        let answer = self.repository.manifest(&digest.to_string()).await?;
        manifest::verify("manifest", &answer.bytes, &digest).map_err(|e| self.bad(e))?;
        Ok(answer)
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        let bytes = match self.sink.manifest(&descriptor.digest) {
            Some(kept) => kept,
            None => self.repository.small_blob(descriptor, CONFIG_LIMIT).await?.bytes,
        };
        descriptor.verify("config", &bytes).map_err(|e| self.bad(e))?;
        Ok(bytes)
    }

    fn bad(&self, cause: ImageError) -> PullError {
        PullError::Image { image: self.reference.familiar(), cause }
    }
}
