//! Decides which requests go through a proxy, by the environment variables that Go's programs read.
//!
//! The rules are those of Go's `golang.org/x/net/http/httpproxy`, which docker, podman and skopeo follow. Those of
//! `reqwest` know no ports in `NO_PROXY`, read `*.example.com` as no domain at all, and look a name up before
//! it goes through `socks5://`. Besides, `ALL_PROXY` is read, as curl does.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

/// The proxies of the environment.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
}

/// The hosts that are reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Direct {
    Everything,
    Network(IpNet),
    Address {
        ip: IpAddr,
        port: Option<u16>,
    },
    /// The domain begins with a dot. `itself` says whether the name without the dot is meant too.
    Domain {
        domain: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    pub(super) fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let any = |names: &[&str]| {
            let set = names.iter().filter_map(|name| variable(name)).map(|value| value.trim().to_owned());
            set.into_iter().find(|value| !value.is_empty())
        };
        // In a CGI program HTTP_PROXY is what a client sent as the header `Proxy`.
        let http: &[&str] =
            if variable("REQUEST_METHOD").is_some() { &["http_proxy"] } else { &["HTTP_PROXY", "http_proxy"] };
        let all = || any(&["ALL_PROXY", "all_proxy"]);
        let proxy = |names: &[&str]| any(names).or_else(all).and_then(|address| parse_proxy(&address));
        let list = any(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        Self {
            http: proxy(http),
            https: proxy(&["HTTPS_PROXY", "https_proxy"]),
            direct: list.split([',', ' ', '\t', '\n']).filter_map(Direct::parse).collect(),
        }
    }

    /// Returns all proxies.
    pub(super) fn all(&self) -> impl Iterator<Item = &Url> {
        self.http.iter().chain(&self.https)
    }

    /// Returns the proxy for a request, or `None` if it goes directly.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            "http" => self.http.as_ref(),
            _ => None,
        }?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok();
        // A proxy cannot reach this host's own servers.
        let is_own = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let port = url.port_or_known_default();
        (!is_own && !self.direct.iter().any(|direct| direct.has(&host, ip, port))).then_some(proxy)
    }
}

impl Direct {
    fn parse(word: &str) -> Option<Self> {
        let word = word.trim().to_ascii_lowercase();
        if word.is_empty() {
            return None;
        }
        if word == "*" {
            return Some(Self::Everything);
        }
        if let Ok(network) = word.parse() {
            return Some(Self::Network(network));
        }
        let (host, port) = split_port(&word);
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Self::Address { ip, port });
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host).trim_end_matches('.');
        match host.strip_prefix('.') {
            _ if host.is_empty() => None,
            Some(_) => Some(Self::Domain { domain: host.to_owned(), itself: false, port }),
            None => Some(Self::Domain { domain: format!(".{host}"), itself: true, port }),
        }
    }

    fn has(&self, host: &str, ip: Option<IpAddr>, port: Option<u16>) -> bool {
        let same_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::Everything => true,
            Self::Network(network) => ip.is_some_and(|ip| network.contains(&ip)),
            Self::Address { ip: wanted, port } => ip == Some(*wanted) && same_port(port),
            Self::Domain { domain, itself, port } => {
                let is_it = *itself && domain.strip_prefix('.') == Some(host);
                (is_it || host.ends_with(domain.as_str())) && same_port(port)
            }
        }
    }
}

/// Splits the port off `host:port`. An IPv6 address has its port after a bracket.
fn split_port(word: &str) -> (&str, Option<u16>) {
    match word.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (word, None),
        },
        _ => (word, None),
    }
}

fn parse_proxy(address: &str) -> Option<Url> {
    let known = |url: &Url| matches!(url.scheme(), "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h");
    let parsed = Url::parse(address).ok().filter(known).or_else(|| Url::parse(&format!("http://{address}")).ok());
    let Some(url) = parsed else {
        tracing::warn!("a proxy variable is ignored: its value is not an address");
        return None;
    };
    // Go lets the proxy look up names for both schemes.
    match url.as_str().strip_prefix("socks5://") {
        Some(rest) => Url::parse(&format!("socks5h://{rest}")).ok(),
        None => Some(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(set: &'static [(&str, &str)]) -> Proxies {
        let of = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Proxies::from_variables(of)
    }

    fn used(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&url.parse().unwrap()).map(ToString::to_string)
    }

    #[test]
    fn requests_that_no_proxy_names_go_directly() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("*", &["https://a.test", "https://10.1.2.3"], &[]),
            ("a.test", &["https://a.test", "https://b.a.test:5000"], &["https://ba.test", "https://test"]),
            (".a.test", &["https://b.a.test"], &["https://a.test"]),
            ("*.a.test", &["https://b.a.test", "https://c.b.a.test"], &["https://a.test", "https://xa.test"]),
            (
                "a.test:5000",
                &["https://a.test:5000", "https://b.a.test:5000"],
                &["https://a.test", "https://a.test:443"],
            ),
            ("a.test:443", &["https://a.test"], &["https://a.test:5000", "http://a.test"]),
            ("10.1.2.3", &["https://10.1.2.3:5000"], &["https://10.1.2.4"]),
            ("10.1.2.3:80", &["http://10.1.2.3"], &["http://10.1.2.3:81"]),
            ("10.0.0.0/8", &["https://10.200.0.1"], &["https://11.0.0.1", "https://a.test"]),
            (
                "fd00::/8,[2001:db8::1]:5000",
                &["https://[fd00::7]", "https://[2001:db8::1]:5000"],
                &["https://[2001:db8::1]"],
            ),
            (" b.test , A.TEST ", &["https://a.test", "https://B.test"], &["https://c.test"]),
            ("a.test.", &["https://a.test", "https://a.test."], &["https://c.test"]),
            ("", &[], &["https://a.test"]),
        ];
        for (list, direct, proxied) in table {
            let variables = |name: &str| match name {
                "HTTP_PROXY" | "HTTPS_PROXY" => Some("proxy.test:3128".to_owned()),
                "NO_PROXY" => Some((*list).to_owned()),
                _ => None,
            };
            let proxies = Proxies::from_variables(variables);
            for url in *direct {
                assert_eq!(used(&proxies, url), None, "{url} with {list}");
            }
            for url in *proxied {
                assert_eq!(used(&proxies, url).as_deref(), Some("http://proxy.test:3128/"), "{url} with {list}");
            }
        }
    }

    #[test]
    fn this_host_is_never_reached_through_a_proxy() {
        let proxies = proxies(&[("ALL_PROXY", "http://proxy.test")]);
        for url in ["http://localhost:5000", "https://127.0.0.1", "https://127.9.9.9", "http://[::1]:5000"] {
            assert_eq!(used(&proxies, url), None, "{url}");
        }
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let two = proxies(&[
            ("http_proxy", "http://a.test"),
            ("HTTPS_PROXY", "https://user:pw@b.test:1"),
            ("https_proxy", "c"),
        ]);
        assert_eq!(used(&two, "http://x.test").as_deref(), Some("http://a.test/"));
        assert_eq!(used(&two, "https://x.test").as_deref(), Some("https://user:pw@b.test:1/"));
        let cgi = proxies(&[("HTTP_PROXY", "http://evil.test"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(used(&cgi, "http://x.test"), None);
        let all = proxies(&[("ALL_PROXY", "socks5h://s.test:1080"), ("HTTP_PROXY", "p.test:8080")]);
        assert_eq!(used(&all, "http://x.test").as_deref(), Some("http://p.test:8080/"));
        assert_eq!(used(&all, "https://x.test").as_deref(), Some("socks5h://s.test:1080"));
        let socks = proxies(&[("HTTPS_PROXY", "socks5://u:p@s.test")]);
        assert_eq!(used(&socks, "https://x.test").as_deref(), Some("socks5h://u:p@s.test"));
    }
}
