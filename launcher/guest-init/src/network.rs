//! The network card: its address and its route.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::Network;
use guest_protocol::Part;

use crate::boot;
use crate::netlink::{self, RouteRequest};

/// A card is found while its driver loads; only a guest that gets hardly any processor time needs this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Configures the one card: its address and the default route.
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

/// Returns the index of the first interface that is not the loopback, which is number 1 everywhere.
fn find_card(interfaces: &Path) -> Option<u32> {
    fs::read_dir(interfaces).ok()?.flatten().find_map(|interface| {
        let index = fs::read_to_string(interface.path().join("ifindex")).ok()?.trim_end().parse().ok()?;
        (index != netlink::LOOPBACK).then_some(index)
    })
}

fn configure(index: u32, network: &Network) -> io::Result<()> {
    let address = network.address.octets();
    netlink::send(&[
        RouteRequest::address(index, address, network.prefix),
        RouteRequest::link_up(index),
        RouteRequest::default_route(index, network.gateway.octets()),
    ])
}
