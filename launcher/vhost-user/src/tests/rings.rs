//! Queues that no driver would create, with notifications as the library sends them.

use super::*;
use crate::backend::FsBackend;
use crate::shutdown::Shutdown;
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::EventSet;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A device whose guest has the memory and the queue of [`Guest`].
struct Device {
    guest: Guest,
    shutdown: Arc<Shutdown>,
    backend: FsBackend,
    queue: VringMutex<Memory>,
}

impl Device {
    /// Creates a device for a queue in `memory`, which may differ from the memory that the device last heard of.
    fn of(guest: Guest, memory: GuestMemoryMmap, available: u64) -> Self {
        let shutdown = Arc::new(Shutdown::default());
        let known = Memory::new(guest.memory.clone());
        let backend = FsBackend::new(Arc::clone(&guest.server), Arc::clone(&shutdown), known);
        backend.set_event_idx(true);
        let queue = VringMutex::new(Memory::new(memory), 16).unwrap();
        queue.set_queue_event_idx(true);
        queue.set_queue_info(DESCRIPTORS, available, USED).unwrap();
        queue.set_queue_ready(true);
        Self { guest, shutdown, backend, queue }
    }

    fn new(available: u64) -> Self {
        let guest = Guest::new();
        let memory = guest.memory.clone();
        Self::of(guest, memory, available)
    }

    fn notify(&self) {
        self.backend.handle_event(0, EventSet::IN, std::slice::from_ref(&self.queue), 0).unwrap();
    }

    /// Messages answered, and notifications of a broken queue.
    fn counted(&self) -> (u64, u64) {
        let counted = self.guest.server.stats().snapshot();
        (counted.total(), counted.broken_queues)
    }
}

#[test]
fn a_ring_that_begins_in_memory_and_ends_past_it_is_refused() {
    // Flags and index are the last bytes of the memory, and the index says that one chain waits.
    let device = Device::new(MEMORY as u64 - 4);
    device.guest.memory.write_obj(1_u16, GuestAddress(MEMORY as u64 - 2)).unwrap();
    device.notify();
    assert_eq!(device.counted(), (0, 1));
}

#[test]
fn a_ring_whose_entries_can_never_be_read_is_looked_at_twice() {
    // The VMM has replaced the guest's memory since, and nothing waits in the memory that the device reads.
    let replaced = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    replaced.write_obj(1_u16, GuestAddress(AVAILABLE + 2)).unwrap();
    let device = Device::of(Guest::new(), replaced, AVAILABLE);
    device.notify();
    assert_eq!(device.counted(), (0, 1));
}

#[test]
fn a_device_that_was_told_to_end_answers_no_more() {
    let device = Device::new(AVAILABLE);
    let length = device.guest.write_request(Opcode::Statfs, 1, b"");
    device.guest.write_descriptors(DESCRIPTORS, &[(REQUEST, length, NEXT, 1), (REPLY, 4096, WRITE, 0)]);
    // Every entry names descriptor 0.
    for waiting in [1_u16, 3] {
        device.guest.memory.write_obj(waiting, GuestAddress(AVAILABLE + 2)).unwrap();
        device.notify();
        assert_eq!(device.counted(), (u64::from(waiting), 0));
    }
    device.shutdown.hang_up();
    device.guest.memory.write_obj(4_u16, GuestAddress(AVAILABLE + 2)).unwrap();
    device.notify();
    assert_eq!(device.counted(), (3, 0));
}

#[test]
fn a_broken_queue_notified_without_end_is_counted_and_does_not_fill_the_log() {
    let device = Device::new(AVAILABLE);
    device.queue.set_queue_ready(false);
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.reopen().unwrap())).finish();
    tracing::subscriber::with_default(subscriber, || (0..1000).for_each(|_| device.notify()));
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(device.counted(), (0, 1000));
    assert_eq!(text.lines().count(), 101, "{text}");
}

#[test]
fn a_chain_of_more_descriptors_than_any_request_has_is_refused() {
    let guest = Guest::new();
    let length = guest.write_request(Opcode::Statfs, 1, b"");
    for (count, answer) in [(1024_u16, 16 + 80), (1025, 0)] {
        let mut table = vec![(REQUEST, length, NEXT, 1)];
        table.extend((2..count).map(|next| (REPLY, 0, NEXT | WRITE, next)));
        table.push((REPLY, 4096, WRITE, 0));
        guest.write_descriptors(TABLE, &table);
        assert_eq!(guest.answer(&[(TABLE, 16 * u32::from(count), INDIRECT, 0)]), answer, "{count} descriptors");
    }
}
