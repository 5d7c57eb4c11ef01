//! The manifests and blobs of a repository.

use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK, RANGE};
use reqwest::{RequestBuilder, Response, Url};

use super::backoff::Failure;
use super::client::Repository;
use super::error::PullError;
use super::range::Ask;
use super::server::Purpose;
use crate::oci::ImageError;
use crate::oci::manifest::{Descriptor, MANIFEST_LIMIT};
use crate::oci::media_type::MANIFESTS;

/// A document as a registry sent it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: Option<String>,
    /// The other documents that it leads to (RFC 8288).
    pub(super) links: Option<String>,
}

/// Where the bytes of a blob come from.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Registry,
    /// An address that the image's manifest names. No login is sent there.
    Elsewhere(Url),
}

impl Repository {
    /// Returns the manifest or index that a tag or digest names, unverified.
    pub(super) async fn manifest(&self, tag_or_digest: &str) -> Result<Answer, PullError> {
        let url = format!("{}/manifests/{tag_or_digest}", self.base);
        let ask = || self.client.get(&url).header(ACCEPT, MANIFESTS.join(", "));
        let separator = if tag_or_digest.contains(':') { '@' } else { ':' };
        let what = format!("{}{separator}{tag_or_digest}", self.name());
        self.document(&what, ask, MANIFEST_LIMIT).await
    }

    /// Returns a small blob of at most `limit` bytes, unverified.
    pub(super) async fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Answer, PullError> {
        let url = self.blob_url(blob);
        self.document(&format!("{}@{}", self.name(), blob.digest), || self.client.get(&url), limit).await
    }

    /// Starts one attempt to get the bytes of a blob from `offset` on. The headers of the answer say which bytes it
    /// has.
    pub(super) async fn blob(
        &self,
        place: &Place,
        blob: &Descriptor,
        ask: Ask,
        offset: u64,
    ) -> Result<Response, Failure> {
        let what = format!("layer {} of {}", blob.digest, self.name());
        let ranged = |request: RequestBuilder| match ask.header(offset, blob.size) {
            Some(range) => request.header(RANGE, range),
            None => request,
        };
        match place {
            Place::Registry => self.attempt(&what, || ranged(self.client.get(self.blob_url(blob)))).await,
            Place::Elsewhere(url) => {
                let response = self.send(ranged(self.client.get(url.clone())), Purpose::Foreign).await?;
                self.success(&what, response, Purpose::Foreign).await
            }
        }
    }

    fn blob_url(&self, blob: &Descriptor) -> String {
        format!("{}/blobs/{}", self.base, blob.digest)
    }

    /// Returns a document of at most `limit` bytes, in as many attempts as it takes.
    pub(super) async fn document(
        &self,
        what: &str,
        ask: impl Fn() -> RequestBuilder,
        limit: u64,
    ) -> Result<Answer, PullError> {
        let mut backoff = self.backoff();
        loop {
            let failure = match self.attempt(what, &ask).await {
                Ok(mut response) => {
                    let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
                    let (content_type, links) = (header(CONTENT_TYPE), header(LINK));
                    match self.body(&mut response, limit, Purpose::Content).await {
                        Ok(Some(bytes)) => return Ok(Answer { bytes, content_type, links }),
                        Ok(None) => {
                            let cause = ImageError::TooLarge { what: "document".to_owned(), limit };
                            return Err(PullError::Image { image: what.to_owned(), cause });
                        }
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            self.wait_after(&mut backoff, failure).await?;
        }
    }
}
