//! What the host's `/etc/resolv.conf` says, and which part of it a guest gets (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr};

/// The file.
const PATH: &str = "/etc/resolv.conf";

/// How many servers a C library asks (`MAXNS`).
const MOST_SERVERS: usize = 3;

/// The settings of a host's name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) servers: Vec<IpAddr>,
    /// The domains in which a name is looked for.
    pub(crate) search: Vec<String>,
    /// Options of the C library's resolver.
    pub(crate) options: Vec<String>,
}

impl Resolver {
    /// Reads the settings of this host. A file that cannot be read counts as empty.
    pub(crate) fn of_host() -> Self {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(PATH).unwrap_or_default()))
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let words = words.map(str::to_owned);
            match keyword {
                // The scope of a link-local address is the name of an interface of the host.
                Some("nameserver") => found.servers.extend(
                    words
                        .take(1)
                        .filter_map(|address| address.split('%').next().unwrap_or_default().parse::<IpAddr>().ok()),
                ),
                // The last of them counts.
                Some("search") => found.search = words.collect(),
                Some("domain") => found.search = words.take(1).collect(),
                Some("options") => found.options.extend(words),
                _ => {}
            }
        }
        found
    }

    /// Returns the servers that the guest asks directly: those that it can reach itself. Before them it asks the one
    /// that forwards queries to the host's first server.
    pub(crate) fn further_servers(&self, is_of_guest: impl Fn(Ipv4Addr) -> bool) -> Vec<Ipv4Addr> {
        let reachable = |server: &Ipv4Addr| is_reachable(*server) && !is_of_guest(*server);
        self.ipv4().skip(1).filter(reachable).take(MOST_SERVERS - 1).collect()
    }

    fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.servers.iter().filter_map(|server| match server {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Returns what the user should know: that names will not resolve, or that some servers of the host are not asked.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.servers.is_empty() {
            return Some(format!("{PATH} of this host names no name server: names do not resolve in the VM"));
        }
        let list = |servers: &[IpAddr]| servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(first) = self.ipv4().next() else {
            let servers = list(&self.servers);
            return Some(format!(
                "{PATH} of this host names only IPv6 name servers ({servers}), which the VM's network cannot ask: names \
                 do not resolve in the VM; add an IPv4 server, such as a local resolver at 127.0.0.1"
            ));
        };
        let left_out: Vec<IpAddr> = self
            .servers
            .iter()
            .filter(|server| match server {
                IpAddr::V4(address) => *address != first && !is_reachable(*address),
                IpAddr::V6(_) => true,
            })
            .copied()
            .collect();
        (!left_out.is_empty()).then(|| {
            format!(
                "of the name servers in {PATH} of this host, the VM cannot ask {}: if {first} does not answer, names may \
                 not resolve in the VM",
                list(&left_out)
            )
        })
    }
}

/// Returns whether a guest can reach an address through the host's network.
const fn is_reachable(address: Ipv4Addr) -> bool {
    !address.is_loopback() && !address.is_unspecified() && !address.is_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn further(text: &str) -> Vec<String> {
        let of_guest = |address: Ipv4Addr| address.octets()[..3] == [10, 0, 2];
        Resolver::parse(text).further_servers(of_guest).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn search_list_and_options_are_read_as_the_c_library_reads_them() {
        let found = Resolver::parse(
            "# comment\nnameserver 127.0.0.53 # ours\nsearch a.test\ndomain old.test\nsearch corp.test  sub.corp.test ; x\n\
             options ndots:2 edns0\noptions rotate\nsortlist 1.2.3.4\nnameserver bad\nnameserver\n",
        );
        assert_eq!(found.search, ["corp.test", "sub.corp.test"]);
        assert_eq!(found.options, ["ndots:2", "edns0", "rotate"]);
        assert_eq!(found.servers.len(), 1);
        assert_eq!(Resolver::parse("search a b\ndomain c.test\n").search, ["c.test"]);
    }

    #[test]
    fn further_servers_are_those_that_a_guest_reaches() {
        assert_eq!(further("nameserver 127.0.0.53\n"), [""; 0]);
        assert_eq!(
            further(
                "nameserver 192.0.2.1\nnameserver 127.0.0.1\nnameserver 192.0.2.2\nnameserver 10.0.2.7\nnameserver ::1\n"
            ),
            ["192.0.2.2"]
        );
        let many = "nameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        assert_eq!(further(many), ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn what_a_guest_cannot_ask_is_told() {
        let warning = |text| Resolver::parse(text).warning();
        assert_eq!(warning("nameserver 127.0.0.53\nnameserver 192.0.2.2\n"), None);
        for (text, told) in [
            ("", "names no name server"),
            ("search x\n", "names no name server"),
            ("nameserver ::1\n", "only IPv6 name servers (::1)"),
            ("nameserver fe80::1%eth0\nnameserver 2001:db8::1\n", "only IPv6 name servers (fe80::1, 2001:db8::1)"),
            ("nameserver 192.0.2.1\nnameserver 127.0.0.53\n", "cannot ask 127.0.0.53: if 192.0.2.1 does not answer"),
            ("nameserver 192.0.2.1\nnameserver ::1\n", "cannot ask ::1"),
        ] {
            let warning = warning(text).unwrap_or_default();
            assert!(warning.contains(told), "{text:?}: {warning}");
        }
    }
}
