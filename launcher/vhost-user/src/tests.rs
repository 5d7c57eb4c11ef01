use crate::chain::{Buffers, answer};
use crate::{VhostUserDevice, VhostUserError};
use composefs_fuse::Server;
use composefs_fuse::wire::{InHeader, Opcode, OutHeader};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

#[path = "../../../composefs-fuse/tests/support/mod.rs"]
mod support;

use support::{Layer, Stored as _};

mod rings;
mod vmm;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const REQUEST: u64 = 0x4000;
const REPLY: u64 = 0x8000;
/// Room for a table of descriptors that no request needs.
const TABLE: u64 = 0x1_0000;
const MEMORY: usize = 0x2_0000;

/// A guest with one queue, and its memory.
struct Guest {
    memory: GuestMemoryMmap,
    server: Arc<Server>,
    _store: tempfile::TempDir,
}

/// A descriptor: address, bytes, flags, next.
type Descriptor = (u64, u32, u16, u16);

impl Guest {
    fn new() -> Self {
        let (view, store) = Layer::new().file("hello", b"world").into_view();
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY as u64).unwrap();
        let file = Some(FileOffset::new(file, 0));
        let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, file)]).unwrap();
        Self { memory, server: Arc::new(Server::new(Arc::new(view))), _store: store }
    }

    /// Puts a request into memory. Returns its length.
    fn write_request(&self, opcode: Opcode, nodeid: u64, body: &[u8]) -> u32 {
        let len = (InHeader::SIZE + body.len()) as u32;
        let header = InHeader { len, opcode: opcode as u32, unique: 9, nodeid, ..InHeader::default() };
        self.memory.write_slice(header.as_bytes(), GuestAddress(REQUEST)).unwrap();
        self.memory.write_slice(body, GuestAddress(REQUEST + InHeader::SIZE as u64)).unwrap();
        len
    }

    fn write_descriptors(&self, at: u64, descriptors: &[Descriptor]) {
        for (index, &(address, length, flags, next)) in descriptors.iter().enumerate() {
            let at = at + 16 * index as u64;
            self.memory.write_obj(address, GuestAddress(at)).unwrap();
            self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
            self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
            self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
        }
    }

    /// Answers the chain that starts at descriptor 0 of a queue of 16. Returns the bytes used.
    fn answer(&self, descriptors: &[Descriptor]) -> u32 {
        self.write_descriptors(DESCRIPTORS, descriptors);
        // The ring of available chains: flags, index, and entry 0, which names descriptor 0.
        self.memory.write_obj(0_u16, GuestAddress(AVAILABLE)).unwrap();
        self.memory.write_obj(1_u16, GuestAddress(AVAILABLE + 2)).unwrap();
        self.memory.write_obj(0_u16, GuestAddress(AVAILABLE + 4)).unwrap();
        let mut queue = Queue::new(16).unwrap();
        queue.set_desc_table_address(Some(DESCRIPTORS as u32), Some(0));
        queue.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
        queue.set_used_ring_address(Some(USED as u32), Some(0));
        queue.set_ready(true);
        let chain = queue.iter(&self.memory).unwrap().next().expect("the chain that was made available");
        answer(&self.server, &self.memory, &chain, &mut Buffers::default())
    }

    fn reply(&self, bytes: u32) -> (OutHeader, Vec<u8>) {
        let mut reply = vec![0; bytes as usize];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        let (header, body) = OutHeader::read_from_prefix(&reply).unwrap();
        (header, body.to_vec())
    }
}

#[test]
fn a_request_in_pieces_is_answered_into_pieces() {
    let guest = Guest::new();
    let length = guest.write_request(Opcode::Lookup, 1, b"hello\0");
    let used = guest.answer(&[
        (REQUEST, 7, NEXT, 1),
        (REQUEST + 7, length - 7, NEXT, 2),
        (REPLY, 16, NEXT | WRITE, 3),
        (REPLY + 16, 128, WRITE, 0),
    ]);
    assert_eq!(used, 16 + 128);
    let (header, body) = guest.reply(used);
    assert_eq!((header.len, header.error, header.unique), (used, 0, 9));
    assert_ne!(u64::read_from_prefix(&body).unwrap().0, 0, "the name leads somewhere");
}

#[test]
fn an_indirect_table_is_followed() {
    let guest = Guest::new();
    let length = guest.write_request(Opcode::Statfs, 1, b"");
    guest.write_descriptors(0x5000, &[(REQUEST, length, NEXT, 1), (REPLY, 4096, WRITE, 0)]);
    assert_eq!(guest.answer(&[(0x5000, 32, INDIRECT, 0)]), 16 + 80);
}

#[test]
fn a_forget_is_taken_without_a_reply() {
    let guest = Guest::new();
    let length = guest.write_request(Opcode::Forget, 1, &[0; 8]);
    assert_eq!(guest.answer(&[(REQUEST, length, 0, 0)]), 0);
    assert_eq!(guest.server.stats().snapshot().count("FORGET"), 1);
}

#[test]
fn a_guest_that_lies_gets_nothing_and_breaks_nothing() {
    let guest = Guest::new();
    let length = guest.write_request(Opcode::Lookup, 1, b"hello\0");
    let outside = MEMORY as u64 - 8;
    let readable = (REQUEST, length, NEXT, 1);
    let cases: [&[Descriptor]; 6] = [
        // A request or a reply outside of the memory.
        &[(outside, 64, NEXT, 1), (REPLY, 200, WRITE, 0)],
        &[readable, (outside, 200, WRITE, 0)],
        &[readable, (u64::MAX - 4, 200, WRITE, 0)],
        // No room for a reply, and less than a header's.
        &[readable, (REPLY, 0, WRITE, 0)],
        &[readable, (REPLY, 15, WRITE, 0)],
        // No request.
        &[(REPLY, 200, WRITE, 0)],
    ];
    for case in cases {
        assert_eq!(guest.answer(case), 0, "{case:?}");
    }
    // Chains that form a loop, directly and through a table, end, and are not requests.
    assert!(guest.answer(&[(REQUEST, length, NEXT, 0)]) == 0);
    guest.write_descriptors(0x5000, &[(REPLY, 16, NEXT | WRITE, 1), (REPLY, 16, NEXT | WRITE, 0)]);
    guest.answer(&[(REQUEST, length, NEXT, 1), (0x5000, 32, INDIRECT, 0)]);
    assert_eq!(guest.server.stats().snapshot().panics, 0);
}

#[test]
fn a_request_longer_than_any_is_cut_and_refused() {
    let guest = Guest::new();
    let length = guest.write_request(Opcode::Lookup, 1, b"hello\0");
    // The length in the header is that of the whole chain, which is far more than is accepted.
    let lie = 5 * MEMORY as u32 / 2;
    guest.memory.write_obj(lie, GuestAddress(REQUEST)).unwrap();
    let half = MEMORY as u32 / 2;
    let used = guest.answer(&[
        (REQUEST, length, NEXT, 1),
        (0, half, NEXT, 2),
        (0, half, NEXT, 3),
        (0, half, NEXT, 4),
        (REPLY, 200, WRITE, 0),
    ]);
    let (header, _) = guest.reply(used);
    assert_eq!((used, header.error), (16, -rustix::io::Errno::INVAL.raw_os_error()));
}

fn device(directory: &tempfile::TempDir) -> VhostUserDevice {
    let guest = Guest::new();
    VhostUserDevice::file_system(guest.server, &directory.path().join("fs.sock")).unwrap()
}

#[test]
fn a_device_that_nobody_uses_ends_when_told_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let waiting = device(&directory);
    assert!(waiting.socket().exists() && !waiting.has_ended());
    waiting.stop();
    waiting.wait().unwrap();
    drop(device(&directory));
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_device_ends_when_its_vmm_hangs_up() {
    let directory = tempfile::tempdir().unwrap();
    let waiting = device(&directory);
    drop(UnixStream::connect(waiting.socket()).unwrap());
    waiting.wait().unwrap();
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_device_in_use_ends_when_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let used = device(&directory);
    let vmm = UnixStream::connect(used.socket()).unwrap();
    drop(used);
    let mut rest = Vec::new();
    assert_eq!((&vmm).read_to_end(&mut rest).unwrap_or(0), 0);
}

#[test]
fn a_vmm_that_talks_nonsense_ends_its_own_device_only() {
    let directory = tempfile::tempdir().unwrap();
    let waiting = device(&directory);
    let vmm = UnixStream::connect(waiting.socket()).unwrap();
    (&vmm).write_all(&[0xFF; 64]).unwrap();
    assert!(matches!(waiting.wait(), Err(VhostUserError::Protocol(_))));
}
