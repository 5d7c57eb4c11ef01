//! A guest's network, without privileges: by passt, or by the network that the engine has built in (slirp).
//!
//! Both look the same to the guest: its address is 10.0.2.15, and 10.0.2.3 forwards DNS queries to the first IPv4 server
//! in the host's `/etc/resolv.conf`. There is only IPv4. The guest asks the host's other servers itself, if it can reach
//! them.
//!
//! The gateway, 10.0.2.2, leads to the host's loopback only if that is asked for. passt can close it; slirp cannot.
//! Neither carries published ports: see [`crate::machine`].

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use guest_protocol::Network;
use serde::{Deserialize, Serialize};

use crate::host::resolver::Resolver;

pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub(crate) const PREFIX: u8 = 24;

/// What carries a guest's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkBackend {
    /// Nothing: the guest has its loopback only.
    None,
    /// The program passt.
    Passt,
    /// The user-mode network that an engine has built in.
    Slirp,
}

impl fmt::Display for NetworkBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Passt => "passt",
            Self::Slirp => "slirp",
        })
    }
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// The address of the host to listen on. Only this host itself can reach the default, 127.0.0.1.
    pub(crate) address: Ipv4Addr,
    /// The host's port, 1 to 65535.
    pub(crate) host: u16,
    /// The guest's port, 1 to 65535.
    pub(crate) guest: u16,
    /// UDP instead of TCP.
    pub(crate) udp: bool,
}

impl FromStr for Publish {
    type Err = String;

    /// Reads `[ADDRESS:]HOST:GUEST[/tcp|/udp]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, udp) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), false),
            Some((ports, "udp")) => (ports, true),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (address, host, guest) = match parts[..] {
            [host, guest] => (Ipv4Addr::LOCALHOST, host, guest),
            [address, host, guest] => {
                let parsed = address.parse().map_err(|_| format!("{address:?} is not an IPv4 address"))?;
                (parsed, host, guest)
            }
            _ => return Err("expected [ADDRESS:]HOST:GUEST, such as 8080:80 or 0.0.0.0:5353:53/udp".to_owned()),
        };
        let port = |text: &str| match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text:?} is not a port from 1 to 65535")),
        };
        Ok(Self { address, host: port(host)?, guest: port(guest)?, udp })
    }
}

impl fmt::Display for Publish {
    /// Writes what [`Publish::from_str`] reads, including the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}{}", self.address, self.host, self.guest, if self.udp { "/udp" } else { "" })
    }
}

/// Returns what the guest is told to set up.
#[must_use]
pub(crate) fn in_guest(host_loopback: bool) -> Network {
    let resolver = Resolver::of_host();
    let is_of_guest = |address: Ipv4Addr| address.octets()[..3] == ADDRESS.octets()[..3];
    let name_servers = [NAME_SERVER].into_iter().chain(resolver.further_servers(is_of_guest)).collect();
    let Resolver { search, options, .. } = resolver;
    Network { address: ADDRESS, prefix: PREFIX, gateway: GATEWAY, name_servers, search, options, host_loopback }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(text: &str) -> Publish {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_of_a_published_port_is_read() {
        let local = Publish { address: Ipv4Addr::LOCALHOST, host: 8080, guest: 80, udp: false };
        assert_eq!(publish("8080:80"), local);
        assert_eq!(publish("8080:80/tcp"), local);
        assert_eq!(publish("8080:80/udp"), Publish { udp: true, ..local });
        assert_eq!(publish("0.0.0.0:8080:80"), Publish { address: Ipv4Addr::UNSPECIFIED, ..local });
        for wrong in ["", "80", "0:80", "80:0", "80:65536", "a:b", "1:2:3:4", "x:1:2", "1:2/sctp", "8080:80/"] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong:?}");
        }
    }
}
