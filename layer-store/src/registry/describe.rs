//! Resolves a name to the verified manifest and config of one platform.

use super::client::Repository;
use super::content::Answer;
use super::{PullError, PullOptions};
use crate::observer::Halt;
use crate::oci::choose::{Choice, ChoiceError, Chosen, Documents};
use crate::oci::manifest::{self, Descriptor};
use crate::oci::platform::Platform;
use crate::oci::sink::LayerSink;
use crate::{Digest, ImageError, Observer, Reference};

/// Fetches documents. One that is named by its digest is taken from the store if it is there. The registry is asked in
/// every pull what a tag refers to.
pub(super) struct Describe<'a> {
    pub(super) runtime: &'a tokio::runtime::Runtime,
    pub(super) sink: &'a dyn LayerSink,
    pub(super) repository: &'a Repository,
    pub(super) reference: &'a Reference,
    pub(super) options: &'a PullOptions,
    pub(super) halt: &'a Halt,
}

impl Documents for Describe<'_> {
    type Error = PullError;

    fn document(&self, what: &str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, PullError> {
        let bytes = match descriptor.digest.sha256().and_then(|digest| self.sink.manifest(&digest)) {
            Some(kept) => kept,
            None if what == "manifest" => self.manifest(&descriptor.digest.to_string())?.bytes,
            None => self.wait(self.repository.small_blob(descriptor, limit))?.bytes,
        };
        descriptor.verify(what, &bytes).map_err(|e| self.bad(e))?;
        Ok(bytes)
    }

    fn is_absent(&self, error: &PullError) -> bool {
        matches!(error, PullError::NotFound { .. })
    }
}

impl Describe<'_> {
    /// Returns the image for the platform that is wanted, and the index that led to it, if the name refers to one.
    pub(super) fn image(&self) -> Result<(Chosen, Option<Vec<u8>>), PullError> {
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let choice = Choice { documents: self, wanted: &wanted, is_asked_for: self.options.platform.is_some() };
        let Answer { bytes, content_type, .. } = self.named()?;
        let digest = Digest::of(&bytes);
        let named = bytes.clone();
        let chosen = choice.of_document(bytes, digest, content_type.as_deref()).map_err(|error| match error {
            ChoiceError::Image(cause) => self.bad(cause),
            ChoiceError::Document(error) => error,
        })?;
        if wanted.distance_to(&chosen.platform).is_none() {
            let (name, platform) = (self.reference.familiar(), &chosen.platform);
            self.halt.notice(&format!("{name} is for {platform}, this host is {wanted}"));
        }
        let index = (chosen.manifest_digest != digest).then_some(named);
        Ok((chosen, index))
    }

    /// Returns a document that an index or a manifest names.
    pub(super) fn fetch(&self, what: &str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, PullError> {
        self.document(what, descriptor, limit)
    }

    /// Returns the document that the name refers to.
    fn named(&self) -> Result<Answer, PullError> {
        let Some(digest) = self.reference.digest() else {
            return self.manifest(self.reference.tag().unwrap_or("latest"));
        };
        if let Some(bytes) = self.sink.manifest(&digest) {
            return Ok(Answer { bytes, content_type: None, links: None });
        }
        let answer = self.manifest(&digest.to_string())?;
        manifest::verify("manifest", &answer.bytes, &digest.into()).map_err(|e| self.bad(e))?;
        Ok(answer)
    }

    fn manifest(&self, tag_or_digest: &str) -> Result<Answer, PullError> {
        self.wait(self.repository.manifest(tag_or_digest))
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
        super::wait(self.runtime, self.halt, work)
    }

    pub(super) fn bad(&self, cause: ImageError) -> PullError {
        PullError::Image { image: self.reference.familiar(), cause }
    }
}
