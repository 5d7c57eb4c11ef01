//! Connections: addresses, TLS, and what their failures mean.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Client;

use super::backoff::{Failure, Patience};
use super::{PullError, PullOptions, trust};

/// The longest that a registry on this host may take to say whether it speaks TLS.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Where the requests for `registry` go: Docker Hub serves under another name than images carry.
pub(super) fn host(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// Whether the registry is this host itself.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn client(registry: &str, options: &PullOptions) -> Result<Client, PullError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(trust::tls(options)?)
        .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.patience.connect)
        .read_timeout(options.patience.stall);
    if is_loopback(registry) {
        // A proxy cannot reach this host's own registries.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| PullError::Client(deepest(&e)))
}

/// Whether to speak plain HTTP: where the user says so, and to a registry on this host that has no TLS.
pub(super) async fn plain_http(client: &Client, registry: &str, options: &PullOptions) -> bool {
    if options.plain_http || !is_loopback(registry) {
        return options.plain_http;
    }
    let ask = client.get(format!("https://{}/v2/", host(registry))).timeout(PROBE_PATIENCE);
    match ask.send().await {
        Ok(_) => false,
        // A certificate, even a bad one, means that there is TLS.
        Err(error) => !is_certificate_error(&error),
    }
}

/// What a request that got no answer, or a body that broke off, means.
pub(super) fn failure(registry: &str, url: &str, patience: &Patience, error: &reqwest::Error) -> Failure {
    let registry = registry.to_owned();
    if is_certificate_error(error) {
        return Failure::Final(PullError::Untrusted { registry, cause: deepest(error) });
    }
    if error.is_connect() {
        let cause = match error.is_timeout() {
            true => format!("no connection within {} s", patience.connect.as_secs_f32()),
            false => explained(&deepest(error)),
        };
        return Failure::NoContact(PullError::Unreachable { registry, cause });
    }
    if error.is_timeout() {
        let stalled = PullError::Stalled { url: url.to_owned(), waited: patience.stall };
        return Failure::Passing { error: stalled, wait: None };
    }
    if error.is_builder() || error.is_redirect() {
        return Failure::Final(PullError::Interrupted { url: url.to_owned(), cause: deepest(error) });
    }
    Failure::Passing { error: PullError::Interrupted { url: url.to_owned(), cause: deepest(error) }, wait: None }
}

fn is_certificate_error(error: &reqwest::Error) -> bool {
    deepest(error).contains("certificate")
}

/// The words of TLS libraries for a server that speaks something else say nothing to a user.
fn explained(cause: &str) -> String {
    if cause.contains("InvalidContentType") || cause.contains("corrupt message") {
        return "it does not speak TLS (use --plain-http if that is meant)".to_owned();
    }
    cause.to_owned()
}

/// The cause at the bottom: what the system or the TLS library said, without the layers that passed it on.
fn deepest(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // Some layers wrap without telling `source`, but repeat what they wrap after a colon.
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_known_by_all_its_names() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["docker.io", "localhost.example:5000", "10.0.0.1:5000", "[2001:db8::1]:5000"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
