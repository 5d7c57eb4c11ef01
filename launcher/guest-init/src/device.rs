//! Finds the guest's disks and its network card, and sets the card's address and route.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::{Network, Part};

use crate::boot;
use crate::netlink::{self, RouteRequest};

/// A device is found while its driver loads; only a guest that gets hardly any processor time needs this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for the disk with this serial, and returns its path. The host gives the serials, because the names of disks
/// depend on the order of discovery.
pub(crate) fn disk(serial: &str) -> Result<String, String> {
    boot::load_part(Part::Disk);
    let name = within_deadline(|| with_serial(Path::new("/sys/block"), serial));
    name.map(|name| format!("/dev/{name}")).ok_or_else(|| format!("no virtio disk with the serial {serial:?}"))
}

/// Sets the address of the one network card, and the default route.
pub(crate) fn configure_network(network: &Network) -> Result<(), String> {
    boot::load_part(Part::Network);
    let index = within_deadline(|| find_card(Path::new("/sys/class/net"))).ok_or("no network card")?;
    configure(index, network).map_err(|error| format!("network card: {error}"))
}

/// Waits for a card that something else makes and configures.
pub(crate) fn await_network() -> Result<(), String> {
    let routes = || fs::read_to_string("/proc/net/route").unwrap_or_default();
    within_deadline(|| has_default_route(&routes()).then_some(())).ok_or_else(|| "no network card".to_owned())
}

/// Whether a table of routes has a default one: a heading, and for each route the interface, the destination in hex, and
/// more (proc_pid_net(5)).
fn has_default_route(table: &str) -> bool {
    table.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000"))
}

/// Waits until `find` finds a device. Returns `None` if it has not by the deadline.
fn within_deadline<T>(find: impl Fn() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let found = find();
        if found.is_some() || start.elapsed() > DEADLINE {
            return found;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn with_serial(disks: &Path, serial: &str) -> Option<String> {
    fs::read_dir(disks).ok()?.flatten().find_map(|disk| {
        let text = fs::read_to_string(disk.path().join("serial")).ok()?;
        (text.trim_end() == serial).then(|| disk.file_name().to_string_lossy().into_owned())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_default_route_shows_that_the_card_is_configured() {
        let heading = "Iface\tDestination\tGateway \tFlags\n";
        let local = "eth0\t0002000A\t00000000\t0001\n";
        assert!(!has_default_route("") && !has_default_route(heading));
        assert!(!has_default_route(&format!("{heading}{local}")));
        assert!(has_default_route(&format!("{heading}{local}eth0\t00000000\t0202000A\t0003\n")));
    }
}
