use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use layer_store::{BlockDevice, Silent};
use test_support::tar_builder::TarBuilder;
use test_support::{Random, noise, until};
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{BlockBackend, Disk};
use crate::shutdown::Shutdown;
use crate::{Memory, VhostUserDevice};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// A table of descriptors, a header and a status for each entry of the queue.
const TABLES: u64 = 0x10_0000;
const HEADERS: u64 = 0x20_0000;
/// Room for the data of each entry of the queue.
const DATA: u64 = 0x40_0000;
const ROOM: u64 = 0x4_0000;
const MEMORY: usize = 0x100_0000;
const ENTRIES: u16 = 16;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What a status is before the device writes it.
const UNTOUCHED: u8 = 0x77;

/// A descriptor: address, bytes, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// A guest with one queue, or one of its queues.
struct Guest {
    memory: GuestMemoryMmap,
    /// What the addresses of its rings have in addition.
    rings: u64,
    made_available: u16,
    seen: u16,
}

impl Guest {
    fn new() -> Self {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY as u64).unwrap();
        let file = Some(FileOffset::new(file, 0));
        let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, file)]).unwrap();
        Self { memory, rings: 0, made_available: 0, seen: 0 }
    }

    /// Another queue of the same guest. Its entries must be others.
    fn second_queue(&self) -> Self {
        Self { memory: self.memory.clone(), rings: 0x1_0000, made_available: 0, seen: 0 }
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

    fn header(&self, entry: u16, kind: u32, sector: u64) -> u64 {
        let at = HEADERS + 0x1000 * u64::from(entry);
        self.memory.write_slice(&kind.to_le_bytes(), GuestAddress(at)).unwrap();
        self.memory.write_slice(&sector.to_le_bytes(), GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(UNTOUCHED, GuestAddress(at + 16)).unwrap();
        at
    }

    /// Makes a table of descriptors available as entry `entry` of the queue.
    fn send(&mut self, entry: u16, table: &[Descriptor]) {
        let at = TABLES + 0x8000 * u64::from(entry);
        self.write_descriptors(at, table);
        let own = self.rings + DESCRIPTORS + 16 * u64::from(entry);
        self.write_descriptors(own, &[(at, 16 * table.len() as u32, INDIRECT, 0)]);
        self.make_available(entry);
    }

    fn make_available(&mut self, head: u16) {
        let slot = self.rings + AVAILABLE + 4 + 2 * u64::from(self.made_available % ENTRIES);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.made_available = self.made_available.wrapping_add(1);
        self.memory.write_obj(self.made_available, GuestAddress(self.rings + AVAILABLE + 2)).unwrap();
    }

    /// Sends an ordinary request with `length` bytes of data.
    fn request(&mut self, entry: u16, kind: u32, sector: u64, length: u32) {
        let header = self.header(entry, kind, sector);
        let data = (DATA + ROOM * u64::from(entry), length, NEXT | WRITE, 2);
        self.send(entry, &[(header, 16, NEXT, 1), data, (header + 16, 1, WRITE, 0)]);
    }

    fn status(&self, entry: u16) -> u8 {
        self.memory.read_obj(GuestAddress(HEADERS + 0x1000 * u64::from(entry) + 16)).unwrap()
    }

    fn data(&self, entry: u16, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.read_slice(&mut data, GuestAddress(DATA + ROOM * u64::from(entry))).unwrap();
        data
    }

    /// Returns the next answered request, if there is one: its entry and the bytes used.
    fn answered(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.rings + USED + 2)).unwrap();
        if index == self.seen {
            return None;
        }
        let slot = self.rings + USED + 4 + 8 * u64::from(self.seen % ENTRIES);
        self.seen = self.seen.wrapping_add(1);
        let entry: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        Some((entry as u16, self.memory.read_obj(GuestAddress(slot + 4)).unwrap()))
    }

    fn await_answer(&mut self) -> (u16, u32) {
        test_support::until_some("an answer", || self.answered())
    }
}

/// A disk whose reads wait while they are held.
#[derive(Debug)]
struct Gated {
    content: Vec<u8>,
    /// Sectors whose reads wait.
    held: Mutex<BTreeSet<u64>>,
    changed: Condvar,
    begun: AtomicUsize,
}

impl Gated {
    fn new(sectors: usize) -> Arc<Self> {
        let content = noise(1, sectors * 512);
        Arc::new(Self { content, held: Mutex::default(), changed: Condvar::new(), begun: AtomicUsize::new(0) })
    }

    fn holding(self: Arc<Self>, sectors: &[u64]) -> Arc<Self> {
        self.held.lock().unwrap().extend(sectors);
        self
    }

    fn release(&self, sector: u64) {
        self.held.lock().unwrap().remove(&sector);
        self.changed.notify_all();
    }

    /// What a disk has that cannot be read.
    const BAD: u64 = 1000;
}

impl Disk for Gated {
    fn length(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock().unwrap();
        while held.contains(&(offset / 512)) {
            held = self.changed.wait(held).unwrap();
        }
        let end = offset + buffer.len() as u64;
        if (offset..end).contains(&(Self::BAD * 512)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.copy_from_slice(&self.content[offset as usize..end as usize]);
        Ok(())
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        if self.held.lock().unwrap().contains(&(offset / 512)) || offset / 512 >= Self::BAD {
            return Ok(false);
        }
        self.read_at(buffer, offset).map(|()| true)
    }
}

/// A queue of a device as its thread sees it.
fn queue_of(guest: &Guest) -> VringMutex {
    let queue = VringMutex::new(Memory::new(guest.memory.clone()), ENTRIES).unwrap();
    queue.set_queue_info(guest.rings + DESCRIPTORS, guest.rings + AVAILABLE, guest.rings + USED).unwrap();
    queue.set_queue_ready(true);
    queue
}

/// A device without a socket.
struct Direct {
    guest: Guest,
    shutdown: Arc<Shutdown>,
    backend: BlockBackend,
    queue: VringMutex,
}

impl Direct {
    fn new(disk: Arc<dyn Disk>) -> Self {
        Self::with_queues(disk, 1)
    }

    fn with_queues(disk: Arc<dyn Disk>, queues: u16) -> Self {
        let guest = Guest::new();
        let shutdown = Arc::new(Shutdown::default());
        let memory = Memory::new(guest.memory.clone());
        let backend = BlockBackend::new(disk, "root", queues, Arc::clone(&shutdown), memory);
        let queue = queue_of(&guest);
        Self { guest, shutdown, backend, queue }
    }

    fn notify(&self) {
        self.backend.handle_event(0, EventSet::IN, std::slice::from_ref(&self.queue), 0).unwrap();
    }

    /// Sends one request, and returns its status, how many bytes were used, and its data.
    fn ask(&mut self, kind: u32, sector: u64, length: u32) -> (u8, u32, Vec<u8>) {
        self.guest.request(0, kind, sector, length);
        self.notify();
        let (entry, used) = self.guest.await_answer();
        assert_eq!(entry, 0);
        (self.guest.status(0), used, self.guest.data(0, length as usize))
    }

    /// Sends any descriptors. Returns the bytes used and the status that is where [`Guest::header`] puts it.
    fn send(&mut self, table: &[Descriptor]) -> (u32, u8) {
        self.guest.send(0, table);
        self.notify();
        let (_, used) = self.guest.await_answer();
        (used, self.guest.status(0))
    }
}

#[test]
fn sectors_are_read_from_where_they_are_asked_for() {
    let disk = Gated::new(2000);
    let mut device = Direct::new(disk.clone());
    for (sector, length) in [(0, 512), (3, 4096), (999, 512), (1001, 131_072), (1100, 200_704), (1999, 512), (2000, 0)]
    {
        let (status, used, data) = device.ask(IN, sector, length);
        assert_eq!((status, used), (OK, length + 1), "{length} bytes at {sector}");
        assert!(data == disk.content[sector as usize * 512..][..length as usize], "{length} bytes at {sector}");
    }
}

#[test]
fn what_is_not_on_the_disk_and_what_would_change_it_is_refused() {
    let disk = Gated::new(2000);
    let mut device = Direct::new(disk.clone());
    let refused = [(2000, 512), (1999, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512), (0, 511), (0, 1)];
    for (sector, length) in refused {
        let (status, ..) = device.ask(IN, sector, length);
        assert_eq!(status, IO_ERROR, "{length} bytes at {sector}");
    }
    assert_eq!(device.ask(IN, Gated::BAD, 512).0, IO_ERROR);
    assert_eq!(device.ask(IN, Gated::BAD - 1, 2048).0, IO_ERROR);
    assert_eq!(device.ask(IN, Gated::BAD + 1, 512).0, OK);
    assert_eq!(device.ask(OUT, 0, 512).0, IO_ERROR);
    assert_eq!(device.ask(DISCARD, 0, 512).0, UNSUPPORTED);
    assert_eq!(device.ask(u32::MAX, 0, 512).0, UNSUPPORTED);
    assert_eq!(device.ask(FLUSH, 0, 0).0, OK);
    let (status, _, serial) = device.ask(GET_ID, 0, 20);
    assert_eq!((status, serial.as_slice()), (OK, &b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]));
    assert_eq!(device.ask(GET_ID, 0, 3).2, b"roo");
    assert_eq!(device.backend.broken_queues(), 0);
}

#[test]
fn header_data_and_status_may_be_in_any_pieces() {
    let disk = Gated::new(100);
    let mut device = Direct::new(disk.clone());
    let header = device.guest.header(0, IN, 7);
    let table = [
        (header, 3, NEXT, 1),
        (header + 3, 13, NEXT, 2),
        (DATA, 100, NEXT | WRITE, 3),
        (DATA + 100, 924, NEXT | WRITE, 4),
        (header + 16, 1, WRITE, 0),
    ];
    assert_eq!(device.send(&table), (1025, OK));
    assert!(device.guest.data(0, 1024) == disk.content[7 * 512..][..1024]);
    // Data and status in one piece.
    let header = device.guest.header(0, IN, 8);
    assert_eq!(device.send(&[(header, 16, NEXT, 1), (DATA, 513, WRITE, 0)]), (513, UNTOUCHED));
    let data = device.guest.data(0, 513);
    assert!(data[..512] == disk.content[8 * 512..][..512] && data[512] == OK);
    // Without a table outside of the queue.
    let header = device.guest.header(0, IN, 9);
    device.guest.write_descriptors(
        DESCRIPTORS,
        &[(header, 16, NEXT, 1), (DATA, 512, NEXT | WRITE, 2), (header + 16, 1, WRITE, 0)],
    );
    device.guest.make_available(0);
    device.notify();
    assert_eq!(device.guest.await_answer(), (0, 513));
    assert_eq!(device.guest.status(0), OK);
}

#[test]
fn a_guest_that_lies_gets_nothing_and_breaks_nothing() {
    let disk = Gated::new(100);
    let mut device = Direct::new(disk.clone());
    let outside = MEMORY as u64 - 8;
    let header = device.guest.header(0, IN, 0);
    let (readable, status) = ((header, 16, NEXT, 1), (header + 16, 1, WRITE, 0));
    let nothing: [&[Descriptor]; 6] = [
        // No room for a status.
        &[(header, 16, 0, 0)],
        &[readable, (DATA, 0, WRITE, 0)],
        // Outside of the memory.
        &[(outside, 16, NEXT, 1), status],
        &[readable, (outside, 512, NEXT | WRITE, 2), status],
        &[readable, (u64::MAX - 4, 512, NEXT | WRITE, 2), status],
        // Readable after writable.
        &[(DATA, 512, NEXT | WRITE, 1), (outside + 100, 16, NEXT, 2), status],
    ];
    for table in nothing {
        assert_eq!(device.send(table).0, 0, "{table:?}");
    }
    // A header that is too short, or missing.
    assert_eq!(device.send(&[(header, 15, NEXT, 1), status]), (1, IO_ERROR));
    device.guest.header(0, IN, 0);
    assert_eq!(device.send(&[status]), (1, IO_ERROR));
    // Chains that form a loop, directly and through a table, and a table in a table.
    device.send(&[(header, 16, NEXT, 0)]);
    device.send(&[readable, (DATA, 512, NEXT | WRITE, 1)]);
    device.send(&[(TABLES, 16, INDIRECT, 0)]);
    let endless: Vec<Descriptor> = (1..=1100).map(|next| (DATA, 512, NEXT | WRITE, next)).collect();
    assert_eq!(device.send(&endless).0, 0, "more descriptors than any request has");
    // A table that is no table.
    for (address, length) in [(TABLES, 15), (TABLES, 0), (outside, 64), (u64::MAX - 8, 64)] {
        device.guest.write_descriptors(DESCRIPTORS, &[(address, length, INDIRECT, 0)]);
        device.guest.make_available(0);
        device.notify();
        assert_eq!(device.guest.await_answer().1, 0, "a table of {length} bytes at {address:#x}");
    }
    assert_eq!(device.ask(IN, 1, 512).2, disk.content[512..1024]);
}

#[test]
fn random_chains_never_stop_the_device() {
    let disk = Gated::new(1500);
    let mut device = Direct::new(disk.clone());
    let mut random = Random::new(7);
    for _ in 0..2000 {
        let count = 1 + random.below(6);
        let table: Vec<Descriptor> = (0..count)
            .map(|_| {
                let address = match random.below(4) {
                    0 => HEADERS,
                    1 => random.bits(),
                    2 => random.below(MEMORY) as u64,
                    _ => DATA,
                };
                let length = [0, 1, 8, 16, 512, 513, 4096, u32::MAX][random.below(8)];
                (address, length, random.below(8) as u16, random.below(count + 1) as u16)
            })
            .collect();
        device.guest.header(0, random.below(12) as u32, random.below(2000) as u64);
        // What it writes must not be one of its own queues.
        let writes_queue = |&(address, length, ..): &Descriptor| {
            let end = address.saturating_add(length.into());
            (address < TABLES + 0x8000 && end > DESCRIPTORS) || address > MEMORY as u64
        };
        if !table.iter().any(writes_queue) {
            device.send(&table);
        }
    }
    assert_eq!(device.ask(IN, 1, 512).2, disk.content[512..1024]);
}

#[test]
fn a_slow_read_holds_up_no_other_and_answers_come_as_they_are_ready() {
    let disk = Gated::new(1500).holding(&[8, 16]);
    let mut device = Direct::new(disk.clone());
    for (entry, sector) in [(0, 8), (1, 16), (2, 24), (3, 1200)] {
        device.guest.request(entry, IN, sector, 4096);
    }
    device.notify();
    let first = [device.guest.await_answer().0, device.guest.await_answer().0];
    assert_eq!(BTreeSet::from(first), BTreeSet::from([2, 3]), "both of those that wait for nothing");
    until("both slow reads have begun", || disk.begun.load(Ordering::SeqCst) >= 4);
    assert_eq!(device.guest.answered(), None);
    disk.release(16);
    assert_eq!(device.guest.await_answer(), (1, 4097));
    disk.release(8);
    assert_eq!(device.guest.await_answer(), (0, 4097));
    assert!(device.guest.data(0, 4096) == disk.content[8 * 512..][..4096]);
    assert!(device.guest.data(1, 4096) == disk.content[16 * 512..][..4096]);
}

#[test]
fn queues_are_answered_side_by_side_and_given_back_one_by_one() {
    let disk = Gated::new(1500).holding(&[8]);
    let mut device = Direct::with_queues(disk.clone(), 2);
    assert_eq!(device.backend.num_queues(), 2);
    assert_eq!(device.backend.queues_per_thread(), [1, 2], "a thread for each");
    assert_eq!(device.backend.get_config(34, 2), [2, 0]);
    assert_ne!(device.backend.features() & 1 << 12, 0, "the guest is told of several queues");
    let mut second = device.guest.second_queue();
    let second_queue = queue_of(&second);
    let notify_second =
        || device.backend.handle_event(0, EventSet::IN, std::slice::from_ref(&second_queue), 1).unwrap();
    device.guest.request(0, IN, 8, 512);
    device.notify();
    second.request(8, IN, 24, 4096);
    notify_second();
    assert_eq!(second.await_answer(), (8, 4097));
    assert!(second.data(8, 4096) == disk.content[24 * 512..][..4096]);
    // The other queue still has a request that is not answered.
    second_queue.set_queue_ready(false);
    device.backend.stop_vring(1).unwrap();
    assert_eq!(device.guest.answered(), None);
    disk.release(8);
    assert_eq!(device.guest.await_answer(), (0, 513));
    device.backend.stop_vring(0).unwrap();
}

#[test]
fn slow_reads_on_every_thread_hold_up_nothing_that_is_cached() {
    let slow: Vec<u64> = (1..=16).map(|number| 8 * number).collect();
    let disk = Gated::new(1500).holding(&slow);
    let mut device = Direct::with_queues(disk.clone(), 2);
    let mut second = device.guest.second_queue();
    let second_queue = queue_of(&second);
    for (entry, sector) in (0..8).zip(&slow) {
        device.guest.request(entry, IN, *sector, 512);
    }
    for (entry, sector) in (8..16).zip(&slow[8..]) {
        second.request(entry, IN, *sector, 512);
    }
    device.notify();
    device.backend.handle_event(0, EventSet::IN, std::slice::from_ref(&second_queue), 1).unwrap();
    until("every thread reads", || disk.begun.load(Ordering::SeqCst) == 16);
    let header = device.guest.header(20, IN, 400);
    let data = (DATA + ROOM * 20, 512, NEXT | WRITE, 14);
    let table = [(header, 16, NEXT, 13), data, (header + 16, 1, WRITE, 0)];
    device.guest.write_descriptors(DESCRIPTORS + 16 * 12, &table);
    device.guest.make_available(12);
    device.notify();
    assert_eq!(device.guest.await_answer(), (12, 513));
    assert_eq!((device.guest.answered(), second.answered()), (None, None));
    slow.iter().for_each(|sector| disk.release(*sector));
    for queue in [&mut device.guest, &mut second] {
        let answered: BTreeSet<u16> = (0..8).map(|_| queue.await_answer().0).collect();
        assert_eq!(answered.len(), 8);
    }
}

#[test]
fn a_queue_is_given_back_only_when_all_is_answered() {
    let disk = Gated::new(100).holding(&[8]);
    let mut device = Direct::new(disk.clone());
    device.guest.request(0, IN, 8, 512);
    device.notify();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| {
            device.queue.set_queue_ready(false);
            device.backend.stop_vring(0).unwrap();
            let index: u16 = device.guest.memory.read_obj(GuestAddress(USED + 2)).unwrap();
            index
        });
        until("the read has begun", || disk.begun.load(Ordering::SeqCst) > 0);
        assert!(!stopped.is_finished());
        disk.release(8);
        assert_eq!(stopped.join().unwrap(), 1);
    });
}

#[test]
fn a_device_that_was_told_to_end_answers_no_more() {
    let mut device = Direct::new(Gated::new(100));
    device.shutdown.hang_up();
    device.guest.request(0, IN, 0, 512);
    device.notify();
    assert_eq!(device.guest.answered(), None);
}

#[test]
fn a_broken_queue_is_counted() {
    let device = Direct::new(Gated::new(100));
    device.queue.set_queue_ready(false);
    device.notify();
    assert_eq!(device.backend.broken_queues(), 1);
}

/// The guest's VMM, connected to the socket of a device.
struct Vmm {
    guest: Guest,
    frontend: Frontend,
    kick: EventFd,
}

impl Vmm {
    fn connect(socket: &Path) -> Self {
        let mut frontend = Frontend::connect(socket, 2).unwrap();
        frontend.set_owner().unwrap();
        frontend.set_features(frontend.get_features().unwrap()).unwrap();
        let features = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(features).unwrap();
        Self { guest: Guest::new(), frontend, kick: EventFd::new(0).unwrap() }
    }

    /// Starts the first queue.
    fn start(&mut self) {
        let region = self.guest.memory.iter().next().unwrap();
        self.frontend.set_mem_table(&[VhostUserMemoryRegionInfo::from_guest_region(region).unwrap()]).unwrap();
        let kick = self.kick.try_clone().unwrap();
        self.start_queue(0, self.guest.rings, &kick);
    }

    fn start_queue(&mut self, number: usize, rings: u64, kick: &EventFd) {
        let region = self.guest.memory.iter().next().unwrap();
        let at = |address| region.as_ptr() as u64 + rings + address;
        let rings = VringConfigData {
            queue_max_size: ENTRIES,
            queue_size: ENTRIES,
            flags: 0,
            desc_table_addr: at(DESCRIPTORS),
            used_ring_addr: at(USED),
            avail_ring_addr: at(AVAILABLE),
            log_addr: None,
        };
        self.frontend.set_vring_num(number, ENTRIES).unwrap();
        self.frontend.set_vring_base(number, 0).unwrap();
        self.frontend.set_vring_addr(number, &rings).unwrap();
        self.frontend.set_vring_call(number, &EventFd::new(0).unwrap()).unwrap();
        self.frontend.set_vring_kick(number, kick).unwrap();
        self.frontend.set_vring_enable(number, true).unwrap();
    }

    fn sectors(&mut self) -> u64 {
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, config) = self.frontend.get_config(0, 60, flags, &[0; 60]).unwrap();
        assert_eq!(u32::from_le_bytes(config[12..16].try_into().unwrap()), 126);
        u64::from_le_bytes(config[..8].try_into().unwrap())
    }

    /// Reads the whole disk, several requests at a time.
    fn read_all(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.sectors() * 512).unwrap();
        let piece = ROOM as usize;
        let mut content = vec![0; length];
        let starts: Vec<usize> = (0..length).step_by(piece).collect();
        for batch in starts.chunks(ENTRIES.into()) {
            for (entry, &start) in (0..).zip(batch) {
                self.guest.request(entry, IN, start as u64 / 512, piece.min(length - start) as u32);
            }
            self.kick.write(1).unwrap();
            for _ in batch {
                let (entry, used) = self.guest.await_answer();
                assert_eq!(self.guest.status(entry), OK);
                let start = batch[usize::from(entry)];
                let data = self.guest.data(entry, used as usize - 1);
                content[start..start + data.len()].copy_from_slice(&data);
            }
        }
        content
    }
}

/// A base as a disk, and the store that it is in.
fn base() -> (Arc<BlockDevice>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = layer_store::Store::open(directory.path()).unwrap();
    let mut layer = TarBuilder::new();
    for number in 0..200 {
        layer = layer.file(&format!("file-{number}"), &noise(number, 1 + number as usize * 97));
    }
    let tar = layer.file("large", &noise(1000, 3_000_000)).into_tar();
    let layer = store.layers().ingest(&mut tar.as_slice(), &layer_store::ExpectedLayer::default()).unwrap();
    let base = store.bases().prepare_layers(&[layer.diff_id], &[], &Silent).unwrap();
    let view = Arc::new(store.bases().open(&base).unwrap());
    (Arc::new(store.bases().block_device(&base, view, &Silent).unwrap()), directory)
}

#[test]
fn what_a_vmm_reads_from_the_socket_is_a_sound_file_system_with_the_bytes_of_the_base() {
    let (disk, directory) = base();
    let device = VhostUserDevice::disk(disk.clone(), "root", 1, &directory.path().join("blk.sock")).unwrap();
    let mut vmm = Vmm::connect(device.socket());
    assert_ne!(vmm.frontend.get_features().unwrap() & 1 << 5, 0, "the disk is read-only");
    vmm.start();
    let found = vmm.read_all();
    let mut expected = vec![0; usize::try_from(disk.length()).unwrap()];
    disk.read_at(&mut expected, 0).unwrap();
    assert!(found == expected);
    let exported = directory.path().join("exported");
    std::fs::write(&exported, &found).unwrap();
    let fsck = test_support::programs::installed("fsck.erofs");
    let checked = std::process::Command::new(fsck).arg(&exported).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), u32::from(vmm.guest.made_available));
    drop(vmm);
    device.wait().unwrap();
}

#[test]
fn a_vmm_reads_by_two_queues_while_a_read_of_the_first_waits() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Gated::new(1500).holding(&[8]);
    let device = VhostUserDevice::disk(disk.clone(), "root", 2, &directory.path().join("blk.sock")).unwrap();
    let mut vmm = Vmm::connect(device.socket());
    assert_eq!(vmm.frontend.get_queue_num().unwrap(), 2);
    vmm.start();
    let (mut second, kick) = (vmm.guest.second_queue(), EventFd::new(0).unwrap());
    vmm.start_queue(1, second.rings, &kick);
    vmm.guest.request(0, IN, 8, 512);
    vmm.kick.write(1).unwrap();
    until("the slow read has begun", || disk.begun.load(Ordering::SeqCst) == 1);
    for round in 0..20 {
        second.request(8, IN, 16 + round, 512);
        kick.write(1).unwrap();
        assert_eq!(second.await_answer(), (8, 513));
        assert!(second.data(8, 512) == disk.content[(16 + round as usize) * 512..][..512]);
    }
    assert_eq!(vmm.frontend.get_vring_base(1).unwrap(), 20);
    disk.release(8);
    assert_eq!(vmm.guest.await_answer(), (0, 513));
    drop(vmm);
    device.wait().unwrap();
}

#[test]
fn a_configuration_that_is_too_long_or_far_out_is_refused() {
    let disk: Arc<dyn Disk> = Gated::new(100);
    let device = Direct::new(disk);
    assert_eq!(device.backend.get_config(0, 8), 100_u64.to_le_bytes());
    assert_eq!(device.backend.get_config(34, 2), [1, 0]);
    for (offset, size) in [(0, 257), (250, 7), (u32::MAX, u32::MAX), (300, 1)] {
        assert!(device.backend.get_config(offset, size).is_empty(), "{size} at {offset}");
    }
}

#[test]
fn a_device_ends_though_its_guest_never_stops_asking() {
    let directory = tempfile::tempdir().unwrap();
    for vmm_leaves in [false, true] {
        let disk = Gated::new(2000);
        let device = VhostUserDevice::disk(disk.clone(), "root", 1, &directory.path().join("blk.sock")).unwrap();
        let mut vmm = Vmm::connect(device.socket());
        vmm.guest.request(0, IN, 1, 512);
        vmm.start();
        // Every entry of the ring names the same request, and the ring is full again whenever it is looked at.
        let (memory, kick, asks) =
            (vmm.guest.memory.clone(), vmm.kick.try_clone().unwrap(), Arc::new(AtomicBool::new(true)));
        let asking = Arc::clone(&asks);
        let guest = std::thread::spawn(move || {
            while asking.load(Ordering::Relaxed) {
                let used: u16 = memory.read_obj(GuestAddress(USED + 2)).unwrap();
                memory.write_obj(used.wrapping_add(ENTRIES), GuestAddress(AVAILABLE + 2)).unwrap();
                kick.write(1).unwrap();
            }
        });
        until("requests", || disk.begun.load(Ordering::SeqCst) > 100);
        if vmm_leaves {
            drop(vmm);
            device.wait().unwrap();
        } else {
            drop(device);
        }
        asks.store(false, Ordering::Relaxed);
        guest.join().unwrap();
    }
}

#[test]
fn a_device_that_nobody_uses_and_one_that_reads_end_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("blk.sock");
    drop(VhostUserDevice::disk(Gated::new(10), "root", 1, &socket).unwrap());
    let device = VhostUserDevice::disk(Gated::new(10), "root", 1, &socket).unwrap();
    drop(UnixStream::connect(device.socket()).unwrap());
    device.wait().unwrap();
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}
