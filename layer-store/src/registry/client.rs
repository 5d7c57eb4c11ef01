//! The requests that a pull makes: manifests and blobs of one repository.
//!
//! The client of `oci-distribution` is not used for them: it keeps an answer's headers to itself
//! (`Retry-After`), reads a manifest of any length into memory, and asks again without a login when
//! getting one failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oci_distribution::errors::OciEnvelope;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tokio::sync::Mutex;

use super::auth::{self, Challenge};
use super::backoff::{Backoff, Failure};
use super::credentials::{self, Credential};
use super::error::PullError;
use super::{PullOptions, connect};
use crate::oci::ImageError;
use crate::oci::manifest::{Descriptor, MANIFEST_LIMIT};
use crate::oci::media_type::MANIFESTS;
use crate::{Observer, Reference};

/// Bytes of an error's text that are read.
const REASON_LIMIT: u64 = 64 << 10;
/// Bytes of a token service's answer that are read. Tokens reach some kilobytes.
const TOKEN_LIMIT: u64 = 1 << 20;

/// One repository of one registry, and what is known of how to talk to it.
#[derive(Debug)]
pub(super) struct Repository {
    client: Client,
    /// `https://host/v2/repository`
    base: String,
    plain_http: bool,
    reference: Reference,
    options: PullOptions,
    progress: Arc<dyn Observer>,
    authorization: Mutex<Authorization>,
    contact: AtomicBool,
}

/// What requests carry to be let in.
#[derive(Clone, Debug, Default)]
struct Authorization {
    /// How many there were before.
    generation: u64,
    header: Option<HeaderValue>,
    /// Whose password the header carries, where it carries one.
    user: Option<String>,
}

/// A document as a registry sent it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: Option<String>,
}

impl Repository {
    pub(super) async fn open(
        reference: &Reference,
        options: &PullOptions,
        progress: &Arc<dyn Observer>,
    ) -> Result<Self, PullError> {
        let client = connect::client(reference.registry(), options)?;
        let plain_http = connect::plain_http(&client, reference.registry(), options).await;
        let scheme = if plain_http { "http" } else { "https" };
        let host = connect::host(reference.registry());
        Ok(Self {
            client,
            base: format!("{scheme}://{host}/v2/{}", reference.repository()),
            plain_http,
            reference: reference.clone(),
            options: options.clone(),
            progress: Arc::clone(progress),
            authorization: Mutex::default(),
            contact: AtomicBool::new(false),
        })
    }

    pub(super) fn backoff(&self) -> Backoff<'_> {
        Backoff::new(&self.options.patience, &*self.progress)
    }

    /// Whether the registry has ever answered.
    pub(super) fn contact(&self) -> bool {
        self.contact.load(Ordering::Relaxed)
    }

    /// The manifest or index behind a tag or digest, unverified.
    pub(super) async fn manifest(&self, tag_or_digest: &str) -> Result<Answer, PullError> {
        let url = format!("{}/manifests/{tag_or_digest}", self.base);
        let ask = || self.client.get(&url).header(ACCEPT, MANIFESTS.join(", "));
        let separator = if tag_or_digest.contains(':') { '@' } else { ':' };
        let what = format!("{}{separator}{tag_or_digest}", self.name());
        self.document(&what, ask, MANIFEST_LIMIT).await
    }

    /// A small blob, unverified: at most `limit` bytes.
    pub(super) async fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Answer, PullError> {
        let url = format!("{}/blobs/{}", self.base, blob.digest);
        self.document(&format!("{}@{}", self.name(), blob.digest), || self.client.get(&url), limit).await
    }

    /// Starts one attempt at the bytes of a blob from `offset` on. The answer starts at 0 all the same
    /// where its status is 200, as from servers that know no ranges.
    pub(super) async fn blob_from(&self, blob: &Descriptor, offset: u64) -> Result<Response, Failure> {
        let url = self.blob_url(blob);
        let what = format!("layer {} of {}", blob.digest, self.name());
        let ask = || match offset {
            0 => self.client.get(&url),
            offset => self.client.get(&url).header(RANGE, format!("bytes={offset}-")),
        };
        self.attempt(&what, ask).await
    }

    pub(super) fn blob_url(&self, blob: &Descriptor) -> String {
        format!("{}/blobs/{}", self.base, blob.digest)
    }

    /// Registry and repository, as a user knows them.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.reference.registry(), self.reference.repository())
    }

    /// Registry and repository.
    pub(super) fn place(&self) -> (&str, &str) {
        (self.reference.registry(), self.reference.repository())
    }

    /// What a failed request or a broken body means.
    pub(super) fn failure(&self, url: &str, error: &reqwest::Error) -> Failure {
        connect::failure(self.reference.registry(), url, &self.options.patience, error)
    }

    async fn document(&self, what: &str, ask: impl Fn() -> RequestBuilder, limit: u64) -> Result<Answer, PullError> {
        let mut backoff = self.backoff();
        loop {
            let failure = match self.attempt(what, &ask).await {
                Ok(mut response) => {
                    let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
                    let content_type = content_type.map(str::to_owned);
                    match self.body(&mut response, limit).await {
                        Ok(Some(bytes)) => return Ok(Answer { bytes, content_type }),
                        Ok(None) => {
                            let cause = ImageError::TooLarge { what: "document".to_owned(), limit };
                            return Err(PullError::Image { image: what.to_owned(), cause });
                        }
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            backoff.after(failure, self.contact()).await?;
        }
    }

    /// A body of at most `limit` bytes; `None` where it is longer.
    async fn body(&self, response: &mut Response, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        let url = response.url().to_string();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failure(&url, &e))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// One request, with a new authorization where the registry wants one.
    async fn attempt(&self, what: &str, ask: impl Fn() -> RequestBuilder) -> Result<Response, Failure> {
        let used = self.authorization.lock().await.clone();
        let response = self.send(&ask, used.header).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.success(what, response).await;
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return self.success(what, response).await;
        };
        let renewed = self.renew(used.generation, &challenge).await?;
        let mut response = self.send(&ask, renewed.header).await?;
        match renewed.user {
            Some(user) if response.status() == StatusCode::UNAUTHORIZED => {
                Err(self.login_refused(user, &mut response).await)
            }
            _ => self.success(what, response).await,
        }
    }

    async fn send(&self, ask: &impl Fn() -> RequestBuilder, header: Option<HeaderValue>) -> Result<Response, Failure> {
        let request = match header {
            Some(header) => ask().header(AUTHORIZATION, header),
            None => ask(),
        };
        let response = request.send().await.map_err(|e| {
            let url = e.url().map_or_else(|| self.base.clone(), ToString::to_string);
            self.failure(&url, &e)
        })?;
        self.contact.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// A new authorization, unless another request has got one since `generation`.
    async fn renew(&self, generation: u64, challenge: &Challenge) -> Result<Authorization, Failure> {
        let mut authorization = self.authorization.lock().await;
        if authorization.generation == generation {
            let (header, user) = self.authorize(challenge).await?;
            *authorization = Authorization { generation: generation + 1, header, user };
        }
        Ok(authorization.clone())
    }

    async fn authorize(&self, challenge: &Challenge) -> Result<(Option<HeaderValue>, Option<String>), Failure> {
        let credential = self.credential().await?;
        let unusable = |reason: String| Failure::Final(self.denied(reason));
        match (challenge, credential) {
            (Challenge::Basic, Credential::Password { user, password }) => {
                let header = auth::basic(&self.client, &user, &password).map_err(unusable)?;
                Ok((Some(header), Some(user)))
            }
            (Challenge::Basic, _) => Ok((None, None)),
            (Challenge::Bearer { realm, .. }, credential) => {
                let repository = self.reference.repository();
                let request = auth::token_request(&self.client, challenge, repository, &credential, self.plain_http);
                let mut response = request.map_err(unusable)?.send().await.map_err(|e| self.failure(realm, &e))?;
                if matches!(response.status().as_u16(), 400 | 401 | 403) && credential != Credential::Anonymous {
                    return Err(self.login_refused(credential.user().to_owned(), &mut response).await);
                }
                let mut response = self.success("a token", response).await?;
                let answer = self.body(&mut response, TOKEN_LIMIT).await?.unwrap_or_default();
                Ok((Some(auth::bearer(&answer).map_err(unusable)?), None))
            }
        }
    }

    async fn login_refused(&self, user: String, response: &mut Response) -> Failure {
        let reason = self.reason(response).await;
        Failure::Final(PullError::LoginRefused { registry: self.reference.registry().to_owned(), user, reason })
    }

    /// The stored login, looked for only once a registry wants one: helpers may be slow, or ask the user.
    async fn credential(&self) -> Result<Credential, PullError> {
        let files = self.options.credential_files.clone().unwrap_or_else(|| {
            credentials::files(|name| std::env::var_os(name).map(Into::into), rustix::process::getuid().as_raw())
        });
        let (registry, repository) = (self.reference.registry().to_owned(), self.reference.repository().to_owned());
        tokio::task::spawn_blocking(move || credentials::find(&files, &registry, &repository))
            .await
            .map_err(|e| PullError::Client(e.to_string()))?
    }

    /// The answer if it is a success, else what its status means.
    async fn success(&self, what: &str, mut response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
            return Ok(response);
        }
        let registry = self.reference.registry().to_owned();
        let wait = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let url = response.url().to_string();
        let reason = self.reason(&mut response).await;
        let answer = |reason| PullError::Answer { url, status: status.as_u16(), reason };
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Final(self.denied(reason)),
            StatusCode::NOT_FOUND => Failure::Final(PullError::NotFound { what: what.to_owned(), reason }),
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::Passing { error: PullError::TooManyRequests { registry, reason, wait }, wait }
            }
            StatusCode::REQUEST_TIMEOUT => Failure::Passing { error: answer(reason), wait },
            status if status.is_server_error() => Failure::Passing { error: answer(reason), wait },
            _ => Failure::Final(answer(reason)),
        })
    }

    fn denied(&self, reason: String) -> PullError {
        PullError::Denied { image: self.name(), registry: self.reference.registry().to_owned(), reason }
    }

    /// What the registry says in the body of an error: its messages where it writes them as the
    /// distribution specification asks, nothing where it sends a page for browsers.
    async fn reason(&self, response: &mut Response) -> String {
        let body = self.body(response, REASON_LIMIT).await.ok().flatten().unwrap_or_default();
        let Ok(envelope) = serde_json::from_slice::<OciEnvelope>(&body) else { return String::new() };
        let messages: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
        messages.join("; ")
    }
}

/// `Retry-After` in seconds (RFC 9110, section 10.2.3). A date is not read: the waits of one's own do as well.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
