//! A guest's network, without privileges: by passt, or by the network that the engine has built in (slirp).
//!
//! Both look the same to the guest: its address is 10.0.2.15, and 10.0.2.3 forwards DNS queries to the first IPv4 server
//! in the host's `/etc/resolv.conf`. There is only IPv4. The guest asks the host's other servers itself, if it can reach
//! them.
//!
//! The gateway, 10.0.2.2, leads to the host's loopback only if that is asked for. passt can close it; slirp cannot.
//! Neither carries published ports: see [`crate::machine`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
    /// The host itself: a container may be in its network.
    Host,
}

impl fmt::Display for NetworkBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Passt => "passt",
            Self::Slirp => "slirp",
            Self::Host => "host",
        })
    }
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// The address of the host to listen on. Only this host itself can reach the default, 127.0.0.1.
    pub(crate) address: IpAddr,
    /// The host's port, 1 to 65535.
    pub(crate) host: u16,
    /// The guest's port, 1 to 65535.
    pub(crate) guest: u16,
    /// UDP instead of TCP.
    pub(crate) udp: bool,
}

impl Publish {
    /// Returns where it listens.
    #[must_use]
    pub(crate) fn on_host(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.host)
    }
}

impl fmt::Display for Publish {
    /// Writes it as an option of `run` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.on_host(), self.guest, if self.udp { "/udp" } else { "" })
    }
}

/// Returns what the guest is told to set up.
#[must_use]
pub(crate) fn in_guest(host_loopback: bool) -> Network {
    let resolver = Resolver::of_host();
    let is_of_guest = |address: Ipv4Addr| address.octets()[..3] == ADDRESS.octets()[..3];
    let name_servers = [NAME_SERVER].into_iter().chain(resolver.further_servers(is_of_guest)).map(IpAddr::V4).collect();
    let Resolver { search, options, .. } = resolver;
    let (address, prefix, gateway) = (ADDRESS, PREFIX, GATEWAY);
    Network { address, prefix, gateway, name_servers, search, options, host_loopback, is_hosts: false }
}

/// Returns what a container in the host's network is told: the host's name servers, and that the host is its own loopback.
#[must_use]
pub(crate) fn of_host() -> Network {
    let Resolver { servers, search, options } = Resolver::of_host();
    Network {
        address: Ipv4Addr::new(127, 0, 1, 1),
        prefix: 8,
        gateway: Ipv4Addr::LOCALHOST,
        name_servers: servers,
        search,
        options,
        host_loopback: true,
        is_hosts: true,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn published_port_is_written_as_the_option_has_it() {
        let port = |address: IpAddr| Publish { address, host: 8080, guest: 80, udp: false };
        assert_eq!(port(IpAddr::from([127, 0, 0, 1])).to_string(), "127.0.0.1:8080:80");
        assert_eq!(Publish { udp: true, ..port(Ipv6Addr::LOCALHOST.into()) }.to_string(), "[::1]:8080:80/udp");
    }
}
