//! The network card: its address, its route, and the file that name resolution reads.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::Network;
use guest_protocol::Part;

use crate::netlink::{self, Request};
use crate::{boot, root, writes};

/// A card is found while its driver loads; only a guest that the host starves needs this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Gives the one card its address and the default route.
pub(crate) fn bring_up(network: &Network) -> Result<(), String> {
    boot::load_part(Part::Network);
    let start = Instant::now();
    let index = loop {
        match find_card(Path::new("/sys/class/net")) {
            Some(index) => break index,
            None if start.elapsed() > DEADLINE => return Err("no network card".to_owned()),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    configure(index, network).map_err(|error| format!("network card: {error}"))
}

/// The index of the first interface that is not the loopback, which is number 1 everywhere.
fn find_card(interfaces: &Path) -> Option<u32> {
    fs::read_dir(interfaces).ok()?.flatten().find_map(|interface| {
        let index = fs::read_to_string(interface.path().join("ifindex")).ok()?.trim_end().parse().ok()?;
        (index != netlink::LOOPBACK).then_some(index)
    })
}

fn configure(index: u32, network: &Network) -> io::Result<()> {
    let address = network.address.octets();
    netlink::send(&[
        Request::address(index, address, network.prefix),
        Request::link_up(index),
        Request::default_route(index, network.gateway.octets()),
    ])
}

/// Writes `/etc/resolv.conf` of the root that has been entered. What an image has there was true where it was built;
/// what a user has put there stays.
pub(crate) fn write_resolv_conf(network: &Network) {
    const PATH: &str = "/etc/resolv.conf";
    if writes::is_of_user(PATH) {
        return;
    }
    let content: String = network.name_servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if fs::symlink_metadata(PATH).is_ok_and(|file| file.is_symlink()) {
        // It leads to a file of a service that does not run here.
        let _ = fs::remove_file(PATH);
    }
    let written = fs::create_dir_all("/etc").and_then(|()| root::write_if_other(PATH, &content));
    if let Err(error) = written {
        eprintln!("lamina: {PATH}: {error}");
    }
}
