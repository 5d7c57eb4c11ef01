//! The files of `/etc` that belong to the machine and not to its image: its name, its hosts, its name servers, its mounts.
//!
//! They are files of the root, not mounts over it, so that the root is one file system. A file that a user replaced at
//! an earlier start stays as it is.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use guest_protocol::Network;

use crate::{missing, ports, writes};

/// What an image without `/etc/hosts` gets, besides the machine's own name: the lines that Docker writes.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Writes the files in the root that `root` leads to. Returns the paths, without a leading slash, of the files that it had to write.
pub(crate) fn write(
    root: &Path,
    hostname: &str,
    network: Option<&Network>,
    given: &[(IpAddr, String)],
) -> Vec<PathBuf> {
    // As in a container, the name resolves to the network card's address, where published ports lead.
    let address = network.map_or(ports::WITHOUT_CARD, |network| network.address).to_string();
    let written = [
        put(root, "etc/hostname", |_| format!("{hostname}\n")),
        put(root, "etc/hosts", |present| {
            let gateway = network.filter(|network| network.host_loopback).map(|network| network.gateway.to_string());
            with_given(&hosts(present, hostname, &address, gateway.as_deref()), given)
        }),
        // The image's own file describes the host on which it was built.
        put(root, "etc/resolv.conf", |present| network.map_or_else(|| present.to_owned(), resolv_conf)),
    ];
    let _ = symlink("/proc/self/mounts", root.join("etc/mtab"));
    written.into_iter().flatten().collect()
}

/// Replaces a file with what `content` returns for its present text, unless that is the same. Returns the path if it
/// wrote the file.
fn put(root: &Path, name: &str, content: impl Fn(&str) -> String) -> Option<PathBuf> {
    if writes::is_of_user(name) {
        return None;
    }
    let path = &root.join(name);
    let present = fs::read(path).ok();
    let text = String::from_utf8_lossy(present.as_deref().unwrap_or_default());
    let content = content(&text);
    let written = || -> io::Result<bool> {
        fs::create_dir_all(root.join("etc"))?;
        // A symbolic link leads to the file of a service that does not run here, or to a file that has other uses too.
        let is_link = fs::symlink_metadata(path).is_ok_and(|file| file.is_symlink());
        if !is_link && present.as_deref() == Some(content.as_bytes()) {
            return Ok(false);
        }
        if is_link {
            fs::remove_file(path)?;
        }
        fs::write(path, &content).map(|()| true)
    };
    let written = written().unwrap_or_else(|error| {
        missing::note(format!("/{name}: cannot write it: {error}"));
        false
    });
    written.then(|| name.into())
}

/// The names of the host, for a guest that may reach its loopback: those of Docker and of Podman.
const HOST_NAMES: &str = "host.docker.internal host.containers.internal";

/// Returns the image's hosts file, with `localhost` and the machine's name added where they are missing, and the names
/// of the host if it is reached at the address `host`.
fn hosts(present: &str, hostname: &str, address: &str, host: Option<&str>) -> String {
    // A line from an earlier start may no longer be true.
    let kept: String = present.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(HOST_NAMES)).collect();
    let present = kept.as_str();
    let own = format!("{address}\t{hostname}\n");
    let mut text = host.map_or(String::new(), |host| format!("{host}\t{HOST_NAMES}\n"));
    if present.trim().is_empty() {
        return text + HOSTS + &own;
    }
    let names = |wanted: &str| names_of(present).any(|(_, name)| name == wanted);
    // Before the image's lines, because the first line with a name counts, and the image may have another address for
    // it.
    if !names_of(present).any(|(at, name)| name == "localhost" && at.starts_with("127.")) {
        text.push_str("127.0.0.1\tlocalhost\n");
    }
    if !names("localhost") {
        text.push_str("::1\tlocalhost\n");
    }
    if !names_of(present).any(|line| line == (address, hostname)) {
        text.push_str(&own);
    }
    text.push_str(present);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Returns a hosts file with the lines that the user has given, before all others: the first line with a name counts.
fn with_given(text: &str, given: &[(IpAddr, String)]) -> String {
    let lines = given.iter().map(|(address, name)| format!("{address}\t{name}\n"));
    let missing: String = lines.filter(|line| !text.lines().any(|there| there == line.trim_end())).collect();
    missing + text
}

/// Returns each name in a hosts file with its address.
fn names_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().flat_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().unwrap_or_default();
        words.map(move |name| (address, name))
    })
}

fn resolv_conf(network: &Network) -> String {
    let line = |keyword: &str, words: &[String]| match words {
        [] => String::new(),
        words => format!("{keyword} {}\n", words.join(" ")),
    };
    let servers: String = network.name_servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    line("search", &network.search) + &servers + &line("options", &network.options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Returns the first address of a name, which is the one that name resolution uses.
    fn first<'text>(text: &'text str, wanted: &str) -> Option<&'text str> {
        names_of(text).find(|(_, name)| *name == wanted).map(|(address, _)| address)
    }

    #[test]
    fn a_machines_name_resolves_whatever_hosts_its_image_has() {
        let alpine = "127.0.0.1\tlocalhost localhost.localdomain\n::1\tlocalhost localhost.localdomain\n";
        for image in [
            "",
            "\n",
            alpine,
            "127.0.0.1 localhost",
            "# nothing\n",
            "127.0.0.1 localhost\n172.17.0.2 myhost\n",
            "127.0.0.1 localhost # myhost\n",
            "10.1.1.1 db\n",
            "::1 localhost\n",
        ] {
            let text = hosts(image, "myhost", "10.0.2.15", None);
            assert_eq!(first(&text, "myhost"), Some("10.0.2.15"), "{image:?}: {text}");
            assert!(names_of(&text).any(|line| line == ("127.0.0.1", "localhost")), "{image:?}: {text}");
            assert!(text.contains(image) && text.ends_with('\n'), "{image:?}: {text}");
            assert_eq!(hosts(&text, "myhost", "10.0.2.15", None), text, "the second start changes nothing");
        }
        assert_eq!(first(&hosts("10.1.1.1 db\n", "m", "127.0.1.1", None), "db"), Some("10.1.1.1"));
    }

    #[test]
    fn the_host_has_names_exactly_where_it_can_be_reached() {
        for image in ["", "127.0.0.1 localhost\n", "10.1.1.1 db\n"] {
            let open = hosts(image, "m", "10.0.2.15", Some("10.0.2.2"));
            for name in ["host.docker.internal", "host.containers.internal"] {
                assert_eq!(first(&open, name), Some("10.0.2.2"), "{open}");
            }
            assert_eq!(hosts(&open, "m", "10.0.2.15", Some("10.0.2.2")), open, "the second start changes nothing");
            let closed = hosts(&open, "m", "10.0.2.15", None);
            assert_eq!(first(&closed, "host.docker.internal"), None, "{closed}");
            assert_eq!(first(&closed, "m"), Some("10.0.2.15"));
        }
    }

    #[test]
    fn a_given_name_comes_before_the_images() {
        let given =
            [(IpAddr::from([10, 1, 1, 9]), "db".to_owned()), (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), "v6".to_owned())];
        let text = with_given("10.1.1.1\tdb\n", &given);
        assert_eq!((first(&text, "db"), first(&text, "v6")), (Some("10.1.1.9"), Some("::1")));
        assert_eq!(with_given(&text, &given), text, "the second start changes nothing");
    }

    #[test]
    fn an_image_without_hosts_gets_what_docker_writes() {
        let text = hosts("", "m", "127.0.1.1", None);
        for line in
            ["127.0.0.1\tlocalhost\n", "::1\tlocalhost ip6-localhost ip6-loopback\n", "ff02::2\tip6-allrouters\n"]
        {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn the_resolver_gets_servers_search_list_and_options() {
        let network = Network {
            address: Ipv4Addr::LOCALHOST,
            prefix: 24,
            gateway: Ipv4Addr::LOCALHOST,
            name_servers: vec![Ipv4Addr::new(10, 0, 2, 3).into(), Ipv4Addr::new(192, 0, 2, 2).into()],
            search: vec!["corp.test".into(), "a.test".into()],
            options: vec!["ndots:2".into(), "edns0".into()],
            host_loopback: false,
            is_hosts: false,
        };
        let expected = "search corp.test a.test\nnameserver 10.0.2.3\nnameserver 192.0.2.2\noptions ndots:2 edns0\n";
        assert_eq!(resolv_conf(&network), expected);
        let plain = Network { search: vec![], options: vec![], ..network };
        assert_eq!(resolv_conf(&plain), "nameserver 10.0.2.3\nnameserver 192.0.2.2\n");
    }
}
