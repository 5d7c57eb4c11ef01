//! Connections: addresses, TLS, proxies, and what their failures mean.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};

use super::causes::causes;
use super::proxy::Proxies;
use super::reach::Reach;
use super::{PullError, PullOptions, trust};

/// The longest that a registry on this host may take to say whether it speaks TLS.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Returns the host that requests for `registry` go to. Docker Hub serves under a name other than the one in
/// references.
pub(super) fn host(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// Returns whether the registry is this host itself.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn client(
    options: &PullOptions,
    registry: &str,
    proxies: &Arc<Proxies>,
    reach: &Reach,
) -> Result<Client, PullError> {
    let proxies = Arc::clone(proxies);
    Client::builder()
        .tls_backend_preconfigured(trust::tls(options, registry)?)
        .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.patience.connect)
        .read_timeout(options.patience.stall)
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(reach.clone()))
        .proxy(reqwest::Proxy::custom(move |url| proxies.of(url).cloned()))
        .build()
        .map_err(|e| PullError::Client(Box::new(e)))
}

/// Returns whether to use plain HTTP: if the user says so, and for a registry that does not use TLS, if it is on this host or
/// need not be secure.
pub(super) async fn plain_http(client: &Client, registry: &str, options: &PullOptions) -> bool {
    if options.plain_http || !(is_loopback(registry) || options.is_insecure()) {
        return options.plain_http;
    }
    let ask = client.get(format!("https://{}/v2/", host(registry))).timeout(PROBE_PATIENCE);
    match ask.send().await {
        Ok(_) => false,
        // A certificate, even a bad one, means that the registry uses TLS.
        Err(error) => kind(&error) != Kind::Untrusted,
    }
}

/// The kind of a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The certificate cannot be trusted.
    Untrusted,
    /// The answer is not TLS.
    NoTls,
    /// No connection was made.
    NoContact,
    /// The request could not be made.
    Request,
    /// Nothing arrived for too long.
    Stalled,
    /// The connection broke.
    Broken,
}

/// Tells kinds of failures apart by the types of their causes.
pub(super) fn kind(error: &reqwest::Error) -> Kind {
    let tls = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => Kind::Untrusted,
        Some(rustls::Error::InvalidMessage(_)) if error.is_connect() => Kind::NoTls,
        _ if error.is_connect() => Kind::NoContact,
        _ if error.is_timeout() => Kind::Stalled,
        _ if error.is_builder() => Kind::Request,
        _ => Kind::Broken,
    }
}

/// A time limit that `reqwest` sets shows no number; this does.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} s", .0.as_secs_f32())]
pub(super) struct ConnectTimeout(pub(super) Duration);

/// Parses an address that a server or an image names. Only `http` and `https` are followed.
pub(super) fn web_address(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
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
