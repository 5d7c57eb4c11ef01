//! The device as a VMM finds it at its socket, with a guest that never stops sending requests.

use super::*;
use std::path::Path;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::GuestMemoryBackend;
use vmm_sys_util::eventfd::EventFd;

/// The queue for requests.
const QUEUE: usize = 1;

/// Connects to the device at `socket` and starts the request queue of `guest` so that it never empties: both rings are
/// at the same place, so each chain that the device gives back is one more that waits, and one waits from the start.
fn start_endless_queue(guest: &Guest, socket: &Path) -> Frontend {
    let mut vmm = Frontend::connect(socket, 2).unwrap();
    vmm.set_owner().unwrap();
    vmm.set_features(vmm.get_features().unwrap()).unwrap();
    let features = vmm.get_protocol_features().unwrap();
    vmm.set_protocol_features(features).unwrap();
    let region = guest.memory.iter().next().unwrap();
    vmm.set_mem_table(&[VhostUserMemoryRegionInfo::from_guest_region(region).unwrap()]).unwrap();

    guest.memory.write_slice(&[0; 0x1000], GuestAddress(USED)).unwrap();
    let at = |address| region.as_ptr() as u64 + address;
    let rings = VringConfigData {
        queue_max_size: 16,
        queue_size: 16,
        flags: 0,
        desc_table_addr: at(DESCRIPTORS),
        used_ring_addr: at(USED),
        avail_ring_addr: at(USED),
        log_addr: None,
    };
    vmm.set_vring_num(QUEUE, 16).unwrap();
    vmm.set_vring_base(QUEUE, u16::MAX).unwrap();
    vmm.set_vring_addr(QUEUE, &rings).unwrap();
    vmm.set_vring_call(QUEUE, &EventFd::new(0).unwrap()).unwrap();
    vmm.set_vring_kick(QUEUE, &EventFd::new(0).unwrap()).unwrap();
    // The device looks into a queue once when it is enabled.
    vmm.set_vring_enable(QUEUE, true).unwrap();
    vmm
}

#[test]
fn a_device_ends_though_its_guest_never_stops_asking() {
    let directory = tempfile::tempdir().unwrap();
    for vmm_leaves in [false, true] {
        let guest = Guest::new();
        // Only zeros are written to the used ring, because a forget has no reply.
        let length = guest.write_request(Opcode::Forget, 1, &[0; 8]);
        guest.write_descriptors(DESCRIPTORS, &[(REQUEST, length, 0, 0)]);
        let device =
            VhostUserDevice::file_system(Arc::clone(&guest.server), &directory.path().join("fs.sock")).unwrap();
        let vmm = start_endless_queue(&guest, device.socket());
        while guest.server.stats().snapshot().count("FORGET") < 1000 {
            std::thread::yield_now();
        }
        if vmm_leaves {
            drop(vmm);
            device.wait().unwrap();
        } else {
            drop(device);
        }
    }
}
