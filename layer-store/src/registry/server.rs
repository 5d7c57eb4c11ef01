//! The servers that take part in one pull, and how messages name them.

use std::fmt;

use reqwest::Url;

/// A server that a pull talks to.
///
/// A registry is rarely alone: it sends its clients to a token service for authorization and to a storage for blobs,
/// often with other operators, in other networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// The registry itself, as written in the image's name.
    Registry {
        /// With its port if the name has one.
        name: String,
        /// The host that serves it, if that is a different one: Docker Hub's is `registry-1.docker.io`.
        host: String,
    },
    /// The service that issues tokens for a registry.
    TokenService {
        /// With its port.
        host: String,
        /// The registry that named it.
        registry: String,
    },
    /// Where a registry redirects requests for blobs.
    Storage {
        /// With its port.
        host: String,
        /// The registry that redirects.
        registry: String,
    },
    /// The place that an image names for a layer that its registry may not keep.
    Elsewhere {
        /// With its port.
        host: String,
    },
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { name, host } if name == host => write!(f, "the registry {name}"),
            Self::Registry { name, host } => write!(f, "the registry {name} at {host}"),
            Self::TokenService { host, registry } => {
                write!(f, "the token service of the registry {registry} at {host}")
            }
            Self::Storage { host, registry } => write!(f, "the storage of the registry {registry} at {host}"),
            Self::Elsewhere { host } => write!(f, "the server of the layer at {host}"),
        }
    }
}

/// What a request is for: together with the host that fails, it tells which server that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A document or blob of the registry.
    Content,
    Token,
    /// A layer that is kept outside of the registry.
    Foreign,
}

/// The host of an address, with its port if it is not the usual one.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// An address without what may be a secret: storages take signatures in queries, and tokens in user names.
pub(super) fn without_secrets(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both fail only for addresses that cannot have either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        let url = "https://user:pw@storage.test:8443/a/b?X-Signature=secret#part".parse().unwrap();
        assert_eq!(without_secrets(&url), "https://storage.test:8443/a/b");
        assert_eq!(host(&url), "storage.test:8443");
        assert_eq!(host(&"https://storage.test/a".parse().unwrap()), "storage.test");
        assert_eq!(host(&"http://[::1]:5000/".parse().unwrap()), "[::1]:5000");
    }
}
