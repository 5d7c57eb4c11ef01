//! A guest's network, without privileges: by passt, or by the network that the engine has built in (slirp).
//!
//! Both look the same to the guest: its address is 10.0.2.15, 10.0.2.2 leads to the host's loopback, and 10.0.2.3
//! forwards DNS queries to the first IPv4 server in the host's `/etc/resolv.conf`. There is only IPv4. The guest asks
//! the host's other servers itself, if it can reach them.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::str::FromStr;

use guest_protocol::Network;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
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

/// Checks whether the host's ports can be listened on now. The program that carries the packets listens a moment later,
/// and reports it itself if another process has taken the port in between.
///
/// # Errors
/// Names the first port that cannot be listened on: it is in use, perhaps by another port of the list, or this user may
/// not use it, or the host has no such address.
pub(crate) fn can_listen(publish: &[Publish]) -> Result<(), Failure> {
    let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
    for port in publish {
        let address = SocketAddrV4::new(port.address, port.host);
        let listened = if port.udp {
            UdpSocket::bind(address).map(|socket| datagrams.push(socket))
        } else {
            TcpListener::bind(address).map(|socket| streams.push(socket))
        };
        listened.map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::AddrInUse => "publish another port of this host, or end the program that listens there",
                ErrorKind::PermissionDenied => "publish a port from /proc/sys/net/ipv4/ip_unprivileged_port_start on",
                _ => "publish it at an address that this host has",
            };
            Failure::new(format_args!("--publish {port}"), error).with_hint(remedy)
        })?;
    }
    Ok(())
}

/// Returns what the guest is told to set up.
#[must_use]
pub(crate) fn in_guest() -> Network {
    let resolver = Resolver::of_host();
    let is_of_guest = |address: Ipv4Addr| address.octets()[..3] == ADDRESS.octets()[..3];
    let name_servers = [NAME_SERVER].into_iter().chain(resolver.further_servers(is_of_guest)).collect();
    let Resolver { search, options, .. } = resolver;
    let host_loopback = false;
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

    #[test]
    fn a_port_that_is_taken_is_named_with_what_to_do() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = can_listen(&[publish(&format!("{port}:80"))]).unwrap_err().to_string();
        assert!(failure.starts_with(&format!("--publish 127.0.0.1:{port}:80: Address already in use")), "{failure}");
        drop(taken);
        let twice = [publish(&format!("{port}:80")), publish(&format!("{port}:81"))];
        assert!(can_listen(&twice).unwrap_err().to_string().contains(":81: Address already in use"));
        can_listen(&[twice[0], publish(&format!("{port}:80/udp"))]).unwrap();
        let elsewhere = can_listen(&[publish("192.0.2.1:4000:80")]).unwrap_err();
        assert_eq!(elsewhere.hint(), Some("publish it at an address that this host has"));
    }
}
