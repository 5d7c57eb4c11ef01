//! The addresses that a registry may direct this program to.
//!
//! A registry, a token service and an image can name addresses for this program to use: redirects, a token service's
//! realm, the places of foreign layers. This program can reach what they cannot: services of this host and of its
//! network, such as a cloud's metadata service. So only a registry that is itself in such a network may name addresses
//! there. If the registry is asked over TLS, no request is sent without TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::proxy::Proxies;
use super::server;

/// The addresses that a registry may direct this program to. Clones share what is found out about the registry.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// The name or address of the registry, without its port.
    registry: String,
    /// Names of proxies: the user has chosen them.
    proxies: Vec<String>,
    /// Whether the registry is in an internal network, as far as its name was looked up.
    is_internal: Arc<AtomicBool>,
}

impl Reach {
    /// Creates the rules for the registry at `host`, which may have a port.
    pub(super) fn new(host: &str, proxies: &Proxies) -> Self {
        let url = Url::parse(&format!("https://{host}/"));
        let registry = url.as_ref().ok().and_then(name).unwrap_or_else(|| host.to_owned());
        let is_internal = url.as_ref().is_ok_and(is_internal_address);
        let proxies = proxies.all().filter_map(name).collect();
        Self { registry, proxies, is_internal: Arc::new(AtomicBool::new(is_internal)) }
    }

    /// Returns why a request must not go to `next`, if so. `from` is the address that led there, if one did.
    pub(super) fn refusal(&self, from: Option<&Url>, next: &Url, plain_http: bool) -> Option<String> {
        let was_https = from.is_some_and(|from| from.scheme() == "https");
        if next.scheme() == "http" && (!plain_http || was_https) {
            return Some("it has no TLS, and what named it has".to_owned());
        }
        let is_registry = name(next).is_some_and(|name| name == self.registry);
        let is_closed = !is_registry && !self.is_internal.load(Ordering::Relaxed) && is_internal_address(next);
        is_closed.then(|| format!("{} is in an internal network, and the registry is not", server::host(next)))
    }

    /// Returns the addresses of a name that may be connected to.
    fn allowed(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_inside = |found: &SocketAddr| is_internal(found.ip());
        if name == self.registry {
            if found.iter().any(is_inside) {
                self.is_internal.store(true, Ordering::Relaxed);
            }
            return Ok(found);
        }
        if self.proxies.contains(&name) || self.is_internal.load(Ordering::Relaxed) {
            return Ok(found);
        }
        let (inside, outside): (Vec<_>, Vec<_>) = found.into_iter().partition(is_inside);
        match inside.first() {
            Some(address) if outside.is_empty() => {
                Err(format!("{name} is {} in an internal network, and the registry is not", address.ip()))
            }
            _ => Ok(outside),
        }
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = reach.allowed(name.as_str(), found).map_err(std::io::Error::other)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The host of an address without its port, in lower case and without a final dot.
fn name(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase())
}

/// Whether an address names an internal network by itself, without a look-up.
fn is_internal_address(url: &Url) -> bool {
    let Some(name) = name(url) else { return false };
    let is_local = name == "localhost" || name.ends_with(".localhost");
    is_local || name.parse::<IpAddr>().is_ok_and(is_internal)
}

/// Whether an IP address is that of this host, or of a network that is not the internet (RFC 6890 and RFC 6598).
fn is_internal(address: IpAddr) -> bool {
    let is_internal_v4 = |address: Ipv4Addr| {
        let [a, b, ..] = address.octets();
        address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_broadcast()
            || a == 0
            || (a == 100 && (64..128).contains(&b))
    };
    match address {
        IpAddr::V4(address) => is_internal_v4(address),
        IpAddr::V6(address) => {
            // An IPv4 address in the form of an IPv6 address, and one behind NAT64 (64:ff9b::/96).
            let [.., high, low] = address.segments();
            let is_nat64 = address.segments().starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]);
            let inner = match is_nat64 {
                true => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
                false => address.to_ipv4(),
            };
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || inner.is_some_and(is_internal_v4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn reach(host: &str) -> Reach {
        Reach::new(host, &Proxies::default())
    }

    #[test]
    fn internal_addresses_are_known_in_every_form() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.1.1",
            "[::1]",
            "[::]",
            "[fd00::1]",
            "[fe80::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(is_internal_address(&url(&format!("https://{inside}:5000/x"))), "{inside}");
        }
        for outside in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "[2606:4700::1]", "[::ffff:1.1.1.1]", "registry.test"] {
            assert!(!is_internal_address(&url(&format!("https://{outside}/x"))), "{outside}");
        }
    }

    #[test]
    fn only_an_internal_registry_may_name_internal_addresses() {
        for target in ["https://127.0.0.1/x", "https://169.254.169.254/latest", "https://localhost:8443/"] {
            assert!(reach("registry.test:5000").refusal(None, &url(target), false).is_some(), "{target}");
            assert!(reach("192.168.0.7:5000").refusal(None, &url(target), false).is_none(), "{target}");
        }
        let public = reach("registry.test");
        let at = |address: &str| vec![SocketAddr::new(address.parse().unwrap(), 0)];
        assert!(public.allowed("storage.test", at("10.0.0.1")).unwrap_err().contains("10.0.0.1"));
        let both = [at("10.0.0.1"), at("1.1.1.1")].concat();
        assert_eq!(public.allowed("storage.test", both).unwrap(), at("1.1.1.1"));
        // The registry's own name leads to an internal address, so it may name others.
        assert_eq!(public.allowed("Registry.test.", at("10.0.0.2")).unwrap(), at("10.0.0.2"));
        assert_eq!(public.allowed("storage.test", at("10.0.0.1")).unwrap(), at("10.0.0.1"));
        assert!(public.refusal(None, &url("https://10.0.0.1/"), false).is_none());
    }

    #[test]
    fn nothing_is_asked_without_tls_where_the_registry_has_it() {
        let public = reach("registry.test");
        assert!(public.refusal(None, &url("http://storage.test/"), false).is_some());
        assert!(public.refusal(None, &url("http://registry.test/"), true).is_none());
        assert!(public.refusal(Some(&url("https://storage.test/")), &url("http://storage.test/"), true).is_some());
        assert!(public.refusal(Some(&url("http://registry.test/")), &url("https://storage.test/"), true).is_none());
    }
}
