//! Requests for one repository of a registry, and what their failures mean.
//!
//! The client of `oci-distribution` is not used for them: it does not show the headers of an answer
//! (`Retry-After`, `Content-Range`), reads a manifest of any length into memory, and asks again without a login when
//! getting one failed.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};

use super::PullOptions;
use super::auth::Authorization;
use super::backoff::{Backoff, Failure};
use super::connect::{self, ConnectTimeout, Kind};
use super::error::PullError;
use super::proxy::Proxies;
use super::reach::Reach;
use super::server::{self, Purpose, Server};
use crate::registries::Registries;
use crate::{Observer, Reference};

/// How many bytes of an error's text are read.
const REASON_LIMIT: u64 = 64 << 10;

/// The most connections over which the layers of an image are fetched, besides one for each layer.
const CONNECTIONS: usize = 8;

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// What is done in a repository, as tokens name it.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// `None` for the registry as a whole.
    pub(super) actions: Option<&'static str>,
    /// Other repositories of the registry, from which blobs are mounted.
    pub(super) mounted_from: Vec<String>,
}

impl Scope {
    pub(super) fn pull() -> Self {
        Self { actions: Some("pull"), mounted_from: Vec::new() }
    }

    pub(super) fn push(mounted_from: Vec<String>) -> Self {
        Self { actions: Some("pull,push"), mounted_from }
    }

    /// Nothing: only whether the login is accepted.
    pub(super) fn login() -> Self {
        Self { actions: None, mounted_from: Vec::new() }
    }
}

/// One repository of one registry, and what is known about how to talk to it.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) client: Client,
    /// `https://host/v2`
    pub(super) root: String,
    /// `https://host/v2/repository`
    pub(super) base: String,
    pub(super) scope: Scope,
    /// The credential helpers of `registries.conf`.
    pub(super) helpers: Vec<String>,
    /// The host of `base`, with its port.
    pub(super) host: String,
    pub(super) plain_http: bool,
    pub(super) reference: Reference,
    pub(super) options: PullOptions,
    pub(super) observer: Arc<dyn Observer>,
    /// The connections over which layers are fetched. If there are fewer layers than these, one layer may take several.
    pub(super) connections: Arc<Semaphore>,
    proxies: Arc<Proxies>,
    /// The addresses that the registry may direct this program to.
    reach: Reach,
    pub(super) authorization: Mutex<Authorization>,
    /// The hosts that have answered.
    contacts: std::sync::Mutex<HashSet<String>>,
}

impl Repository {
    pub(super) async fn open(
        reference: &Reference,
        options: &PullOptions,
        scope: Scope,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self, PullError> {
        let helpers = match options.login {
            Some(_) => Vec::new(),
            None => Registries::read(&options.registries)?.helpers().to_vec(),
        };
        let proxies = Arc::new(Proxies::from_environment());
        let reach = Reach::new(connect::host(reference.registry()), &proxies);
        let client = connect::client(options, reference.registry(), &proxies, &reach)?;
        let plain_http = connect::plain_http(&client, reference.registry(), options).await;
        let scheme = if plain_http { "http" } else { "https" };
        let root = format!("{scheme}://{}/v2", connect::host(reference.registry()));
        let base = format!("{root}/{}", reference.repository());
        Ok(Self {
            client,
            host: Url::parse(&base).map(|url| server::host(&url)).unwrap_or_default(),
            root,
            base,
            scope,
            helpers,
            plain_http,
            reference: reference.clone(),
            options: options.clone(),
            observer: Arc::clone(observer),
            connections: Arc::new(Semaphore::new(options.parallel.min(CONNECTIONS))),
            proxies,
            reach,
            authorization: Mutex::default(),
            contacts: std::sync::Mutex::default(),
        })
    }

    pub(super) fn backoff(&self) -> Backoff<'_> {
        Backoff::new(&self.options.patience, &*self.observer)
    }

    /// Returns registry and repository as a user knows them.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.reference.registry(), self.reference.repository())
    }

    /// Returns the server at an address that a request for `purpose` reached, directly or by redirects.
    pub(super) fn server(&self, url: &Url, purpose: Purpose) -> Server {
        let (host, registry) = (server::host(url), self.reference.registry().to_owned());
        match purpose {
            Purpose::Content if host == self.host => Server::Registry { name: registry, host },
            Purpose::Content => Server::Storage { host, registry },
            Purpose::Token => Server::TokenService { host, registry },
            Purpose::Foreign => Server::Elsewhere { host },
        }
    }

    /// Returns the error for a failed request or a broken body. `url` is the last address of the request.
    pub(super) fn failure(&self, url: Url, purpose: Purpose, error: reqwest::Error) -> Failure {
        let url = error.url().cloned().unwrap_or(url);
        let server = self.server(&url, purpose);
        let shown = server::without_secrets(&url);
        let patience = &self.options.patience;
        let kind = connect::kind(&error);
        let timed_out = error.is_timeout();
        // The address may have a signature in it, and sources are printed too.
        let source = Box::new(error.without_url());
        match kind {
            Kind::Untrusted => Failure::Final(PullError::Untrusted { server, source }),
            Kind::NoTls => Failure::NoContact { error: PullError::NoTls { server, source }, host: server::host(&url) },
            Kind::NoContact => {
                let proxy = self.proxies.of(&url).map(server::host);
                let error = match timed_out {
                    true => {
                        PullError::Unreachable { server, proxy, source: Box::new(ConnectTimeout(patience.connect)) }
                    }
                    false => PullError::Unreachable { server, proxy, source },
                };
                Failure::NoContact { error, host: server::host(&url) }
            }
            Kind::Request => Failure::Final(PullError::Interrupted { server, url: shown, source }),
            Kind::Stalled => Failure::passing(PullError::Stalled { server, url: shown, waited: patience.stall }),
            Kind::Broken => Failure::passing(PullError::Interrupted { server, url: shown, source }),
        }
    }

    /// Waits before another attempt, or returns the error that ends it.
    pub(super) async fn wait_after(&self, backoff: &mut Backoff<'_>, failure: Failure) -> Result<(), PullError> {
        let contact = match &failure {
            Failure::NoContact { host, .. } => self.contacts().contains(host),
            _ => true,
        };
        backoff.after(failure, contact).await
    }

    fn contacts(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a body of at most `limit` bytes, or `None` if it is longer.
    pub(super) async fn body(
        &self,
        response: &mut Response,
        limit: u64,
        purpose: Purpose,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        let url = response.url().clone();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failure(url.clone(), purpose, e))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Sends a request, notes the hosts that answer, and follows redirects.
    ///
    /// The client does not follow them, because its errors name the address that was asked first, and not the one that
    /// failed.
    pub(super) async fn send(&self, request: RequestBuilder, purpose: Purpose) -> Result<Response, Failure> {
        let mut request = request.build().map_err(|e| PullError::Client(Box::new(e)))?;
        let mut from = None;
        for _ in 0..=REDIRECTS {
            let url = request.url().clone();
            if let Some(cause) = self.reach.refusal(from.as_ref(), &url, self.plain_http) {
                let (server, url) = (self.server(&url, purpose), server::without_secrets(&url));
                return Err(PullError::OutOfReach { server, url, cause }.into());
            }
            let again = request.try_clone();
            let response = self.client.execute(request).await;
            let response = response.map_err(|e| self.failure(url.clone(), purpose, e))?;
            self.contacts().insert(server::host(&url));
            let (Some(target), Some(mut next)) = (redirect(&response), again) else { return Ok(response) };
            if server::host(&target) != server::host(&url) || target.scheme() != url.scheme() {
                // The body of such a request is a login.
                if next.method() != Method::GET {
                    return Ok(response);
                }
                next.headers_mut().remove(AUTHORIZATION);
            }
            *next.url_mut() = target;
            request = next;
            from = Some(url);
        }
        let server = self.server(request.url(), purpose);
        let source = format!("it is redirected more than {REDIRECTS} times").into();
        Err(PullError::Interrupted { server, url: server::without_secrets(request.url()), source }.into())
    }

    /// Returns the answer if it is a success, or else the error that its status means.
    pub(super) async fn success(
        &self,
        what: &str,
        mut response: Response,
        purpose: Purpose,
    ) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let server = self.server(response.url(), purpose);
        let wait = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let url = server::without_secrets(response.url());
        let reason = self.reason(&mut response, purpose).await;
        let is_registry = matches!(server, Server::Registry { .. });
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_registry => self.denied(reason).await.into(),
            StatusCode::NOT_FOUND if is_registry => PullError::NotFound { what: what.to_owned(), reason }.into(),
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::Passing { error: PullError::TooManyRequests { server, reason, wait }, wait }
            }
            status => {
                let error = PullError::Answer { server, url, status: status.as_u16(), reason };
                match status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() {
                    true => Failure::Passing { error, wait },
                    false => error.into(),
                }
            }
        })
    }

    pub(super) async fn denied(&self, reason: String) -> PullError {
        let unused = self.authorization.lock().await.unused.clone();
        PullError::Denied { image: self.name(), registry: self.reference.registry().to_owned(), reason, unused }
    }

    pub(super) fn login_refused(&self, user: String, reason: String) -> PullError {
        PullError::LoginRefused { registry: self.reference.registry().to_owned(), user, reason }
    }

    /// What the registry says in the body of an error: its messages if it writes them as the distribution specification
    /// asks, or nothing if it sends a page for browsers.
    pub(super) async fn reason(&self, response: &mut Response, purpose: Purpose) -> String {
        let body = self.body(response, REASON_LIMIT, purpose).await.ok().flatten().unwrap_or_default();
        serde_json::from_slice(&body).map_or_else(|_| String::new(), |answer| messages(&answer))
    }
}

/// Returns where an answer redirects to.
fn redirect(response: &Response) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(location).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Returns the messages of an error's body. The types of `oci-spec` know only the codes of the specification, and token
/// services use other ones.
pub(super) fn messages(answer: &Value) -> String {
    let text = |value: &Value, names: &[&str]| {
        let mut texts = names.iter().filter_map(|name| value.get(name)?.as_str());
        texts.find(|text| !text.is_empty()).map(str::to_owned)
    };
    let errors = answer.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let told: Vec<String> = errors.iter().filter_map(|error| text(error, &["message", "code"])).collect();
    match told.is_empty() {
        true => text(answer, &["details", "message", "error_description", "error"]).unwrap_or_default(),
        false => told.join("; "),
    }
}

/// Returns `Retry-After` in seconds (RFC 9110, section 10.2.3). A date is ignored, and the usual waits apply.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_messages_of_an_error_are_found_wherever_servers_write_them() {
        for (answer, expected) in [
            (json!({"errors": [{"code": "DENIED", "message": "no"}, {"code": "X", "message": "way"}]}), "no; way"),
            (json!({"errors": [{"code": "NEW_CODE"}]}), "NEW_CODE"),
            (json!({"details": "incorrect username or password"}), "incorrect username or password"),
            (json!({"error": "invalid_grant", "error_description": "expired"}), "expired"),
            (json!({"errors": {}, "message": "no"}), "no"),
            (json!([]), ""),
        ] {
            assert_eq!(messages(&answer), expected, "{answer}");
        }
    }
}
