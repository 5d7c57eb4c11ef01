//! Sends blobs and manifests to a repository.
//!
//! The client of `oci-distribution` is not used for this either: it takes a blob as one piece of memory or as a stream that it
//! cannot repeat, so it neither goes on where an upload broke off nor tries again; it does not send the header that continues an
//! upload, and it does not follow `certs.d`, `registries.conf` and the logins that the requests of a pull use.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Body, RequestBuilder, Response, StatusCode, Url};

use super::backoff::{Backoff, Failure};
use super::client::Repository;
use super::error::PullError;
use super::server::{self, Purpose};
use super::upload_note::UploadNote;
use crate::{BlobDigest, Digest};

/// How many bytes of a blob are read at once.
const PIECE: u64 = 256 << 10;
/// After how many more bytes that the registry keeps earlier failures no longer count.
const FORGIVENESS: u64 = 1 << 20;
/// How often an upload that cannot be continued is begun again without a wait.
const RESTARTS: u32 = 3;

/// A blob to be sent: the content of a file.
#[derive(Clone, Debug)]
pub(crate) struct UploadBlob {
    pub(crate) file: Arc<File>,
    pub(crate) digest: BlobDigest,
    pub(crate) size: u64,
}

/// An upload that the registry has begun.
struct Session {
    url: Url,
    /// How many bytes the registry has.
    offset: u64,
}

impl Repository {
    /// Sends a request until it is answered, or until trying again no longer helps.
    pub(super) async fn ask(&self, what: &str, ask: impl Fn() -> RequestBuilder) -> Result<Response, PullError> {
        let mut backoff = self.backoff();
        loop {
            match self.attempt(what, &ask).await {
                Ok(response) => return Ok(response),
                Err(failure) => self.wait_after(&mut backoff, failure).await?,
            }
        }
    }

    /// Whether the repository has a blob.
    pub(super) async fn has_blob(&self, digest: &BlobDigest) -> Result<bool, PullError> {
        let url = format!("{}/blobs/{digest}", self.base);
        found(self.ask(&format!("{}@{digest}", self.name()), || self.client.head(&url)).await)
    }

    /// Whether the repository has a manifest.
    pub(super) async fn has_manifest(&self, digest: &Digest) -> Result<bool, PullError> {
        let url = format!("{}/manifests/{digest}", self.base);
        let accepted = crate::oci::media_type::MANIFESTS.join(", ");
        let ask = || self.client.head(&url).header(reqwest::header::ACCEPT, accepted.as_str());
        found(self.ask(&format!("{}@{digest}", self.name()), ask).await)
    }

    /// Asks the registry to take a blob from another of its repositories. Returns whether it did.
    pub(super) async fn mount(&self, digest: &BlobDigest, from: &str) -> Result<bool, PullError> {
        let url = format!("{}/blobs/uploads/", self.base);
        let query = [("mount", digest.to_string()), ("from", from.to_owned())];
        let what = format!("{} for {digest}", self.name());
        let answer = self.ask(&what, || self.client.post(&url).query(&query).header(CONTENT_LENGTH, 0)).await;
        let response = match answer {
            Ok(response) => response,
            // The login may not read the other repository.
            Err(PullError::Denied { .. } | PullError::NotFound { .. } | PullError::Answer { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // The registry has begun an upload instead, which is not needed.
        if let Ok(url) = location(&response) {
            let _ = self.attempt_at(&url, &what, || self.client.delete(url.clone())).await;
        }
        Ok(false)
    }

    /// Sends a blob, in as many attempts as it takes. `sent` is told how many of its bytes have been sent. An upload that is
    /// noted is continued, if the registry still has it.
    pub(super) async fn upload(
        &self,
        blob: &UploadBlob,
        sent: &Arc<AtomicU64>,
        note: Option<&UploadNote>,
    ) -> Result<(), PullError> {
        let (mut backoff, mut restarts) = (self.backoff(), 0);
        let mut session = match note.and_then(UploadNote::read) {
            Some(url) => self.continued(Session { url, offset: 0 }, blob, &mut self.backoff()).await,
            None => None,
        };
        // How much the registry had when failures last ceased to count. What was only sent is no progress: a proxy may take
        // all of it and fail each time.
        let mut kept = session.as_ref().map_or(0, |session: &Session| session.offset);
        loop {
            let is_continued = session.is_some();
            let failure = match self.attempt_upload(blob, &mut session, sent, note).await {
                Ok(()) => {
                    note.into_iter().for_each(UploadNote::forget);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            let is_lost = matches!(
                &failure,
                Failure::Final(PullError::NotFound { .. } | PullError::Answer { status: 400 | 404 | 416, .. })
            );
            if is_lost && is_continued && restarts < RESTARTS {
                restarts += 1;
                session = None;
                continue;
            }
            if backoff.is_last()
                && !matches!(failure, Failure::Final(_))
                && let Some(current) = &session
                && let Ok(Some(standing)) = self.standing(current, blob).await
            {
                session = Some(standing);
            }
            forgive(&mut backoff, session.as_ref(), &mut kept);
            self.wait_after(&mut backoff, failure).await?;
            session = match session {
                Some(session) => self.continued(session, blob, &mut backoff).await,
                None => None,
            };
            forgive(&mut backoff, session.as_ref(), &mut kept);
        }
    }

    async fn attempt_upload(
        &self,
        blob: &UploadBlob,
        session: &mut Option<Session>,
        sent: &Arc<AtomicU64>,
        note: Option<&UploadNote>,
    ) -> Result<(), Failure> {
        let what = format!("{} for {}", self.name(), blob.digest);
        let mut current = match session.take() {
            Some(session) => session,
            None => {
                let url = format!("{}/blobs/uploads/", self.base);
                let response = self.attempt(&what, || self.client.post(&url).header(CONTENT_LENGTH, 0)).await?;
                Session { url: self.location(&response).map_err(|error| *error)?, offset: 0 }
            }
        };
        note.into_iter().for_each(|note| note.write(&current.url));
        while current.offset < blob.size {
            let (url, offset) = (current.url.clone(), current.offset);
            let patch = || {
                let request = self.client.patch(url.clone()).header(CONTENT_TYPE, "application/octet-stream");
                let request = request.header(CONTENT_LENGTH, blob.size - offset).body(body(blob, offset, sent));
                match offset {
                    0 => request,
                    _ => request.header(CONTENT_RANGE, format!("{offset}-{}", blob.size - 1)),
                }
            };
            let answer = self.attempt_at(&url, &what, patch).await;
            let response = match answer {
                Ok(response) => response,
                Err(failure) => {
                    // Where the registry stands is asked before the next attempt.
                    *session = Some(current);
                    return Err(failure);
                }
            };
            let received = received(response.headers()).unwrap_or(blob.size).min(blob.size);
            if received <= offset {
                let error = io::Error::other(format!("the registry keeps {received} of {} bytes", blob.size));
                let server = self.server(&url, Purpose::Content);
                let next = location(&response).unwrap_or_else(|_| url.clone());
                *session = Some(Session { url: next, offset });
                let url = server::without_secrets(&url);
                return Err(Failure::passing(PullError::Interrupted { server, url, source: error.into() }));
            }
            current = Session { url: self.location(&response).map_err(|error| *error)?, offset: received };
            note.into_iter().for_each(|note| note.write(&current.url));
        }
        let mut url = current.url.clone();
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let put = || self.client.put(url.clone()).header(CONTENT_LENGTH, 0);
        match self.attempt_at(&url, &what, put).await {
            Ok(_) => Ok(()),
            Err(failure) => {
                *session = Some(current);
                Err(failure)
            }
        }
    }

    /// Asks how much the registry has of an upload that broke off, until it answers. `None` if the upload cannot be continued,
    /// or if asking again no longer helps.
    async fn continued(&self, session: Session, blob: &UploadBlob, backoff: &mut Backoff<'_>) -> Option<Session> {
        loop {
            match self.standing(&session, blob).await {
                Ok(standing) => return standing,
                Err(Failure::Final(_)) => return None,
                Err(failure) => self.wait_after(backoff, failure).await.ok()?,
            }
        }
    }

    /// Asks once how much the registry has of an upload. `None` if it does not say.
    async fn standing(&self, session: &Session, blob: &UploadBlob) -> Result<Option<Session>, Failure> {
        let what = format!("the upload to {}", self.name());
        let response = self.attempt_at(&session.url, &what, || self.client.get(session.url.clone())).await?;
        let offset = received(response.headers()).filter(|offset| *offset <= blob.size);
        let url = location(&response).unwrap_or_else(|_| session.url.clone());
        Ok(offset.map(|offset| Session { url, offset }))
    }

    /// Stores a manifest under a tag or its digest.
    pub(super) async fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<(), PullError> {
        let url = format!("{}/manifests/{name}", self.base);
        let body = Bytes::copy_from_slice(bytes);
        let ask = || self.client.put(&url).header(CONTENT_TYPE, media_type).body(body.clone());
        let separator = if name.contains(':') { '@' } else { ':' };
        let response = self.ask(&format!("{}{separator}{name}", self.name()), ask).await?;
        let kept = response.headers().get("Docker-Content-Digest").and_then(|value| value.to_str().ok());
        let own = Digest::of(bytes).to_string();
        match kept {
            Some(kept) if kept.starts_with("sha256:") && kept != own => {
                let cause = crate::ImageError::WrongDigest {
                    what: "the manifest as the registry keeps it".to_owned(),
                    expected: own,
                    actual: kept.to_owned(),
                };
                Err(PullError::Image { image: self.name(), cause })
            }
            _ => Ok(()),
        }
    }

    /// Sends a request to an address that the registry has named. The login goes to the registry only.
    async fn attempt_at(&self, url: &Url, what: &str, ask: impl Fn() -> RequestBuilder) -> Result<Response, Failure> {
        if server::host(url) == self.host {
            return self.attempt(what, ask).await;
        }
        let response = self.send(ask(), Purpose::Content).await?;
        self.success(what, response, Purpose::Content).await
    }

    fn location(&self, response: &Response) -> Result<Url, Box<PullError>> {
        location(response).map_err(|cause| {
            let (server, url) = (self.server(response.url(), Purpose::Content), response.url());
            Box::new(PullError::Interrupted { server, url: server::without_secrets(url), source: cause.into() })
        })
    }
}

/// Forgets earlier failures if the registry has enough more of an upload than the `kept` bytes it had the last time.
fn forgive(backoff: &mut Backoff<'_>, session: Option<&Session>, kept: &mut u64) {
    if let Some(session) = session
        && session.offset.saturating_sub(*kept) >= FORGIVENESS
    {
        *kept = session.offset;
        backoff.reset();
    }
}

/// Turns the answer of a registry that does not have something into `false`.
fn found(answer: Result<Response, PullError>) -> Result<bool, PullError> {
    match answer {
        Ok(_) => Ok(true),
        Err(PullError::NotFound { .. }) => Ok(false),
        // It is kept in a storage, which such a request is not sent to.
        Err(PullError::Answer { status: 301 | 302 | 303 | 307 | 308, .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Returns where an upload goes on.
fn location(response: &Response) -> Result<Url, &'static str> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or("the registry does not say where the upload goes on")?;
    response.url().join(location).map_err(|_| "the registry names no valid address for the upload")
}

/// Returns how many bytes a registry has of an upload: the header `Range: 0-N` (distribution specification, "Pushing a blob in
/// chunks"). `0-0` is also what registries say that have nothing.
fn received(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let (start, last) = range.trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (start.trim() == "0").then(|| if last == 0 { 0 } else { last.saturating_add(1) })
}

/// Reads a blob from `offset` on while it is sent.
fn body(blob: &UploadBlob, offset: u64, sent: &Arc<AtomicU64>) -> Body {
    sent.store(offset, Ordering::Relaxed);
    let (file, size, sent) = (Arc::clone(&blob.file), blob.size, Arc::clone(sent));
    Body::wrap_stream(futures_util::stream::unfold(offset, move |offset| {
        let (file, sent) = (Arc::clone(&file), Arc::clone(&sent));
        async move {
            let length = usize::try_from(PIECE.min(size.saturating_sub(offset))).unwrap_or_default();
            if length == 0 {
                return None;
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, offset).map(|()| Bytes::from(piece))
            });
            let piece = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            let next = offset + length as u64;
            if piece.is_ok() {
                sent.store(next, Ordering::Relaxed);
            }
            Some((piece, next))
        }
    }))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn what_a_registry_has_is_read_as_registries_write_it() {
        for (range, expected) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-18446744073709551615", Some(u64::MAX)),
            ("odd", None),
        ] {
            let headers: HeaderMap = [(RANGE, HeaderValue::from_static(range))].into_iter().collect();
            assert_eq!(received(&headers), expected, "{range}");
        }
    }
}
