//! The device as the vhost-user library wants it: what it can do, and what happens when a queue is kicked.

use super::chain::{Buffers, answer};
use composefs_fuse::Server;
use std::io;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringState, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// `VIRTIO_RING_F_INDIRECT_DESC`: a request may bring a table of descriptors of its own.
const INDIRECT_DESC: u64 = 1 << 28;

/// `VIRTIO_RING_F_EVENT_IDX`: either side says from which entry on it wants to be notified.
const EVENT_IDX: u64 = 1 << 29;

/// `VIRTIO_F_VERSION_1`: not a legacy device.
const VERSION_1: u64 = 1 << 32;

/// The largest queue of the virtio specification (section 2.7).
const MAX_QUEUE_SIZE: usize = 32_768;

/// One virtio-fs device. Thread 0 has queue 0 (forgets) and the first request queue, every other thread one more.
pub(super) struct FsBackend {
    server: Arc<Server>,
    memory: Mutex<Memory>,
    event_idx: AtomicBool,
    /// One set for each thread, so none waits for another.
    buffers: Vec<Mutex<Buffers>>,
}

impl FsBackend {
    pub(super) fn new(server: Arc<Server>, request_queues: NonZeroU8, memory: Memory) -> Self {
        // The library names queues by bits of 64, and one is queue 0.
        let buffers = (0..request_queues.get().min(63)).map(|_| Mutex::default()).collect();
        Self { server, memory: Mutex::new(memory), event_idx: AtomicBool::new(false), buffers }
    }

    /// Answers what waits in a queue, until it is empty.
    fn drain(&self, state: &mut VringState<Memory>, buffers: &mut Buffers) -> Result<(), virtio_queue::Error> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).memory();
        let event_idx = self.event_idx.load(Ordering::Relaxed);
        loop {
            if event_idx {
                state.disable_notification()?;
            }
            while let Some(chain) = state.get_queue_mut().iter(memory.clone())?.next() {
                let head = chain.head_index();
                let used = answer(&self.server, &memory, &chain, buffers);
                state.add_used(head, used)?;
                if (!event_idx || state.needs_notification()?)
                    && let Err(error) = state.signal_used_queue()
                {
                    tracing::warn!(%error, "cannot notify the guest");
                }
            }
            // What came after the last look, and before notifications were on again, would otherwise be left lying.
            if !event_idx || !state.enable_notification()? {
                return Ok(());
            }
        }
    }
}

impl VhostUserBackend for FsBackend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        self.buffers.len() + 1
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        VERSION_1 | INDIRECT_DESC | EVENT_IDX | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::Relaxed);
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let others = (1..self.buffers.len()).map(|thread| 1_u64.checked_shl(thread as u32 + 1).unwrap_or(0));
        std::iter::once(0b11).chain(others).collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(&self, event: u16, _: EventSet, vrings: &[VringMutex], thread: usize) -> io::Result<()> {
        // An error from here would end the thread, and with it every queue it serves: a guest that breaks one of its
        // queues has broken that one only.
        if let (Some(vring), Some(buffers)) = (vrings.get(usize::from(event)), self.buffers.get(thread)) {
            let mut buffers = buffers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = self.drain(&mut vring.get_mut(), &mut buffers) {
                tracing::warn!(%error, "the guest broke a queue of the file system");
            }
        }
        Ok(())
    }
}
