//! The file system as the vhost-user library sees it: its features, and what it does when the guest notifies a queue.

use crate::chain::{Buffers, answer};
use crate::shutdown::Shutdown;
use crate::{EVENT_IDX, INDIRECT_DESC, MAX_QUEUE_SIZE, Memory, VERSION_1};
use composefs_fuse::{Server, report};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringState, VringT};
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

/// Queue 0, for requests that need no reply, and one for all others. QEMU offers no more by default, and guests before
/// Linux 6.12 use no more.
const QUEUES: usize = 2;

/// A virtio-fs device whose queues are served by one thread.
pub(super) struct FsBackend {
    server: Arc<Server>,
    shutdown: Arc<Shutdown>,
    memory: Mutex<Memory>,
    event_idx: AtomicBool,
    buffers: Mutex<Buffers>,
}

impl FsBackend {
    pub(super) fn new(server: Arc<Server>, shutdown: Arc<Shutdown>, memory: Memory) -> Self {
        let (memory, buffers) = (Mutex::new(memory), Mutex::default());
        Self { server, shutdown, memory, event_idx: AtomicBool::new(false), buffers }
    }

    /// Answers the requests in a queue until it is empty or the device is told to end.
    fn drain(&self, state: &mut VringState<Memory>, buffers: &mut Buffers) -> Result<(), QueueError> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).memory();
        let event_idx = self.event_idx.load(Ordering::Relaxed);
        if !state.get_queue().is_valid(&*memory) {
            return Err(QueueError::QueueNotReady);
        }
        let mut looks_again = false;
        loop {
            if event_idx {
                state.disable_notification()?;
            }
            let answered = self.answer_waiting(state, &memory, buffers)?;
            // A request may have arrived after the last check and before notifications were on again.
            if !event_idx || self.shutdown.has_stopped() || !state.enable_notification()? {
                return Ok(());
            }
            // The queue says that a request waits, and it cannot be read: trying again would never end.
            if looks_again && answered == 0 {
                return Err(QueueError::InvalidAvailRingIndex);
            }
            looks_again = true;
        }
    }

    /// Answers the requests that are in a queue now. Returns how many there were.
    fn answer_waiting(
        &self,
        state: &mut VringState<Memory>,
        memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
        buffers: &mut Buffers,
    ) -> Result<usize, QueueError> {
        let event_idx = self.event_idx.load(Ordering::Relaxed);
        let mut answered = 0;
        // Checked before every request: a guest that never stops asking must not keep the device from ending.
        while !self.shutdown.has_stopped()
            && let Some(chain) = state.get_queue_mut().iter(memory.clone())?.next()
        {
            let head = chain.head_index();
            let used = answer(&self.server, memory, &chain, buffers);
            state.add_used(head, used)?;
            answered += 1;
            if (!event_idx || state.needs_notification()?)
                && let Err(error) = state.signal_used_queue()
            {
                self.broken(|| tracing::warn!(%error, "cannot notify the guest"));
            }
        }
        Ok(answered)
    }

    /// Counts a queue that the guest or its VMM broke, and logs the first of them.
    fn broken(&self, log: impl FnOnce()) {
        report(self.server.stats().record_broken_queue(), "a broken queue of the file system", log);
    }
}

impl VhostUserBackend for FsBackend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        QUEUES
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

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(&self, event: u16, _: EventSet, vrings: &[VringMutex], _thread: usize) -> io::Result<()> {
        // An error from here would end the thread and every queue that it serves. A guest that breaks one of its queues
        // must lose only that one.
        if let Some(vring) = vrings.get(usize::from(event)) {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = self.drain(&mut vring.get_mut(), &mut buffers) {
                self.broken(|| tracing::warn!(%error, "the guest broke a queue of the file system"));
            }
        }
        Ok(())
    }
}
