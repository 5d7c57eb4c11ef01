//! `-p` and `-P`: ports of this host that lead to a machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use crate::failure::{About, Failure};
use crate::host::network::Publish;

/// What one `-p` asks for: as many ports of the host as of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    address: IpAddr,
    /// The first port of the host, or any free ones.
    host: Option<u16>,
    /// The first and the last port of the guest.
    guest: (u16, u16),
    udp: bool,
}

impl FromStr for Ports {
    type Err = String;

    /// Reads `[[ADDRESS:][HOST]:]GUEST[/tcp|/udp]`; both ports may be ranges of the same length.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, udp) = match text.rsplit_once('/') {
            None => (text, false),
            Some((ports, "tcp")) => (ports, false),
            Some((ports, "udp")) => (ports, true),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
        };
        // An IPv6 address is in brackets, because it has colons itself.
        let (six, ports) = match ports.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            Some((address, rest)) => (Some(address), rest),
            None => (None, ports),
        };
        let (before, guest) = match ports.rsplit_once(':') {
            Some((before, guest)) => (Some(before), guest),
            None => (None, ports),
        };
        let parts = before.map(|before| before.rsplit_once(':').map_or((None, before), |(a, host)| (Some(a), host)));
        let (address, host) = parts.unwrap_or_default();
        let wrong = |text: &str| format!("{text:?} is not an address of this host; IPv6 is written as [::1]:8080:80");
        let address = match (six, address) {
            (Some(six), None) => IpAddr::V6(six.parse().map_err(|_| wrong(six))?),
            (None, None | Some("localhost")) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (None, Some(text)) => IpAddr::V4(text.parse().map_err(|_| wrong(text))?),
            (Some(_), Some(text)) => return Err(wrong(text)),
        };
        let guest = range(guest)?;
        let host = if host.is_empty() { None } else { Some(range(host)?) };
        if host.is_some_and(|(first, last)| last - first != guest.1 - guest.0) {
            return Err("the two ranges have different lengths".to_owned());
        }
        Ok(Self { address, host: host.map(|(first, _)| first), guest, udp })
    }
}

/// Reads a port, or two with a dash between them.
fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port from 1 to 65535")),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok((first, last))
}

/// Returns the ports that are published: those asked for, and, if `all`, free ones for those that the image exposes.
pub(super) fn resolve(asked: &[Ports], all: bool, exposed: &[String]) -> Result<Vec<Publish>, Failure> {
    let of_image = exposed.iter().filter(|_| all).filter_map(|port| port.parse::<Ports>().ok());
    let mut published: Vec<Publish> = Vec::new();
    for Ports { address, host, guest: (first, last), udp } in asked.iter().cloned().chain(of_image) {
        for guest in first..=last {
            let host = match host {
                Some(host) => host + (guest - first),
                None => free(address, udp, &published).about("-p")?,
            };
            published.push(Publish { address, host, guest, udp });
        }
    }
    Ok(published)
}

/// Returns a free port of the host that is not among `taken`.
fn free(address: IpAddr, udp: bool, taken: &[Publish]) -> std::io::Result<u16> {
    loop {
        let any = SocketAddr::new(address, 0);
        let port = if udp { UdpSocket::bind(any)?.local_addr()? } else { TcpListener::bind(any)?.local_addr()? }.port();
        if !taken.iter().any(|other| (other.host, other.udp) == (port, udp)) {
            return Ok(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn every_form_of_docker_is_read() {
        let ports =
            |host, guest: u16| Ports { address: Ipv4Addr::LOCALHOST.into(), host, guest: (guest, guest), udp: false };
        for (text, expected) in [
            ("80", ports(None, 80)),
            ("80/tcp", ports(None, 80)),
            (":80", ports(None, 80)),
            ("8080:80", ports(Some(8080), 80)),
            ("8080:80/tcp", ports(Some(8080), 80)),
            ("localhost:8080:80", ports(Some(8080), 80)),
            ("127.0.0.1::80", ports(None, 80)),
            ("0.0.0.0:8080:80", Ports { address: Ipv4Addr::UNSPECIFIED.into(), ..ports(Some(8080), 80) }),
            ("[::1]:8080:80", Ports { address: Ipv6Addr::LOCALHOST.into(), ..ports(Some(8080), 80) }),
            ("[::]::80", Ports { address: Ipv6Addr::UNSPECIFIED.into(), ..ports(None, 80) }),
            ("53:53/udp", Ports { udp: true, ..ports(Some(53), 53) }),
            ("8000-8002:80-82", Ports { guest: (80, 82), ..ports(Some(8000), 80) }),
            ("80-82", Ports { guest: (80, 82), ..ports(None, 80) }),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in
            ["", "0", "0:80", "80:0", "80:65536", "a:b", "1:2:3:4", "x:1:2", "1:2/sctp", "8080:80/", "1-3:1-2", "3-1"]
        {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ranges_and_exposed_ports_become_single_ports() {
        let asked = ["8000-8001:80-81".parse().unwrap(), "0.0.0.0::90/udp".parse().unwrap()];
        let published = resolve(&asked, true, &["443/tcp".to_owned(), "what".to_owned()]).unwrap();
        let pairs: Vec<_> = published.iter().map(|port| (port.guest, port.udp)).collect();
        assert_eq!(pairs, [(80, false), (81, false), (90, true), (443, false)]);
        assert_eq!((published[0].host, published[1].host), (8000, 8001));
        assert!(published[2].host > 0 && published[3].host > 0);
        assert_eq!(resolve(&[], false, &["443/tcp".to_owned()]).unwrap(), []);
    }
}
