//! The disk as the vhost-user library sees it: its features, and what it does when the guest notifies a queue.
//!
//! The thread that is notified takes requests from the queue. It answers those for which everything is in the page cache,
//! and gives the others to the workers. So one read that waits for the host's disk holds up no other request, and
//! answers come in any order.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use composefs_fuse::report;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::Disk;
use super::in_flight::{InFlight, Ticket};
use super::request::{Chain, PIECE, Responder, Wait};
use super::workers::Workers;
use crate::shutdown::Shutdown;
use crate::{EVENT_IDX, INDIRECT_DESC, MAX_QUEUE_SIZE, Memory, VERSION_1};

/// `VIRTIO_BLK_F_SEG_MAX`: the configuration says how many pieces of memory a request may have.
const SEG_MAX: u64 = 1 << 2;

/// `VIRTIO_BLK_F_RO`: the disk is read-only.
const READ_ONLY: u64 = 1 << 5;

/// The most pieces of memory of a request. With header and status it fits into the shortest queue that hypervisors
/// choose, which has 128 entries.
const SEGMENTS: u32 = 126;

/// `VIRTIO_BLK_F_MQ`: the configuration says how many queues there are.
const SEVERAL_QUEUES: u64 = 1 << 12;

/// The most queues that a disk may have.
pub(crate) const QUEUES_MAX: u16 = 16;

/// The most requests of a queue that are being answered. A guest cannot have more than its queue is long, unless it lies.
const REQUESTS_MAX: usize = 512;

/// The length of `struct virtio_blk_config` that hypervisors ask for at most, in bytes.
const CONFIG: usize = 256;

/// A request that a worker answers.
struct Job {
    vring: VringMutex,
    chain: Chain,
    _ticket: Ticket,
}

/// A read-only virtio disk.
pub(crate) struct BlockBackend {
    device: Arc<Device>,
    memory: Mutex<Memory>,
    queues: Vec<QueueState>,
    workers: Workers<Job>,
}

/// What the thread of one queue uses.
struct QueueState {
    buffer: Mutex<Box<[u8]>>,
    in_flight: Arc<InFlight>,
}

impl QueueState {
    fn new() -> Self {
        Self { buffer: Mutex::new(vec![0; PIECE].into()), in_flight: Arc::default() }
    }
}

/// What all threads of a disk use.
struct Device {
    responder: Responder,
    shutdown: Arc<Shutdown>,
    event_idx: AtomicBool,
    /// Notifications of a queue that the guest or its VMM broke.
    broken: AtomicU64,
}

impl Device {
    fn answer(&self, chain: &Chain, buffer: &mut [u8], wait: Wait) -> Option<u32> {
        self.responder.answer(chain, buffer, wait, &|| !self.shutdown.has_stopped())
    }

    /// Gives a request back to the guest, `used` bytes of which were written.
    fn finish(&self, vring: &VringMutex, head: u16, used: u32) -> Result<(), QueueError> {
        let mut state = vring.get_mut();
        state.add_used(head, used)?;
        if (!self.event_idx.load(Ordering::Relaxed) || state.needs_notification()?)
            && let Err(error) = state.signal_used_queue()
        {
            self.report_broken(|| tracing::warn!(%error, "cannot notify the guest"));
        }
        Ok(())
    }

    /// Answers a request for which it may wait.
    fn work(&self, job: &Job, buffer: &mut [u8]) {
        let used = self.answer(&job.chain, buffer, Wait::Yes).unwrap_or(0);
        if let Err(error) = self.finish(&job.vring, job.chain.head_index(), used) {
            self.report_broken(|| tracing::warn!(%error, "the guest broke a queue of its disk"));
        }
    }

    /// Counts a queue that the guest or its VMM broke, and logs the first of them.
    fn report_broken(&self, log: impl FnOnce()) {
        report(self.broken.fetch_add(1, Ordering::Relaxed), "a broken queue of a disk", log);
    }
}

impl BlockBackend {
    /// Creates a disk with `queues` queues: at least one, and at most [`QUEUES_MAX`].
    pub(crate) fn new(disk: Arc<dyn Disk>, serial: &str, queues: u16, shutdown: Arc<Shutdown>, memory: Memory) -> Self {
        let responder = Responder::new(disk, serial);
        let (event_idx, broken) = (AtomicBool::new(false), AtomicU64::new(0));
        let device = Arc::new(Device { responder, shutdown, event_idx, broken });
        let theirs = Arc::clone(&device);
        Self {
            device,
            memory: Mutex::new(memory),
            queues: (0..queues.clamp(1, QUEUES_MAX)).map(|_| QueueState::new()).collect(),
            workers: Workers::new(PIECE, move |job: Job, buffer| theirs.work(&job, buffer)),
        }
    }

    /// Takes the requests in a queue until it is empty or the device is told to end.
    fn drain(&self, vring: &VringMutex, state: &QueueState) -> Result<(), QueueError> {
        let mut buffer = state.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).memory().into_inner();
        let event_idx = self.device.event_idx.load(Ordering::Relaxed);
        if !vring.get_ref().get_queue().is_valid(&*memory) {
            return Err(QueueError::QueueNotReady);
        }
        let mut looks_again = false;
        loop {
            if event_idx {
                vring.disable_notification()?;
            }
            let taken = self.take_waiting(vring, &memory, &mut buffer, &state.in_flight)?;
            // A request may have arrived after the last check and before notifications were on again.
            if !event_idx || self.device.shutdown.has_stopped() || !vring.enable_notification()? {
                return Ok(());
            }
            // The queue says that a request waits, and it cannot be read: trying again would never end.
            if looks_again && taken == 0 {
                return Err(QueueError::InvalidAvailRingIndex);
            }
            looks_again = true;
        }
    }

    /// Takes the requests that are in a queue now. Returns how many there were.
    fn take_waiting(
        &self,
        vring: &VringMutex,
        memory: &Arc<GuestMemoryMmap>,
        buffer: &mut [u8],
        in_flight: &Arc<InFlight>,
    ) -> Result<usize, QueueError> {
        let mut taken = 0;
        // Checked before every request: a guest that never stops asking must not keep the device from ending.
        while !self.device.shutdown.has_stopped()
            && let Some((chain, ticket)) = take(vring, memory, in_flight)?
        {
            taken += 1;
            match self.device.answer(&chain, buffer, Wait::No) {
                Some(used) => self.device.finish(vring, chain.head_index(), used)?,
                None => {
                    self.workers.submit(Job { vring: vring.clone(), chain, _ticket: ticket });
                    in_flight.await_at_most(REQUESTS_MAX);
                }
            }
        }
        Ok(taken)
    }

    /// Returns the device's configuration (`struct virtio_blk_config`). Fields of features that it does not offer are 0.
    fn config(&self) -> [u8; CONFIG] {
        let mut config = [0; CONFIG];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = config.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(0, &self.device.responder.sectors().to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(34, &u16::try_from(self.queues.len()).unwrap_or(1).to_le_bytes());
        config
    }
}

/// Takes one request. It counts as being answered from before a stop of the queue can be noticed.
fn take(
    vring: &VringMutex,
    memory: &Arc<GuestMemoryMmap>,
    in_flight: &Arc<InFlight>,
) -> Result<Option<(Chain, Ticket)>, QueueError> {
    let mut state = vring.get_mut();
    let chain = state.get_queue_mut().iter(Arc::clone(memory))?.next();
    Ok(chain.map(|chain| (chain, in_flight.begin())))
}

impl VhostUserBackend for BlockBackend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        self.queues.len()
    }

    /// Each queue has a thread of its own, which answers what is in the page cache.
    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.queues.len()).map(|queue| 1 << queue).collect()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let several = if self.queues.len() > 1 { SEVERAL_QUEUES } else { 0 };
        VERSION_1 | INDIRECT_DESC | EVENT_IDX | SEG_MAX | READ_ONLY | several | protocol
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, enabled: bool) {
        self.device.event_idx.store(enabled, Ordering::Relaxed);
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
        range.and_then(|range| self.config().get(range).map(<[u8]>::to_vec)).unwrap_or_default()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    /// The VMM takes the queue back: what was taken from it must be answered first.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        if let Some(queue) = self.queues.get(queue as usize) {
            queue.in_flight.await_at_most(0);
        }
        Ok(())
    }

    /// A thread has the queue of the same number, and no other.
    fn handle_event(&self, event: u16, _: EventSet, vrings: &[VringMutex], thread: usize) -> io::Result<()> {
        // An error from here would end the thread. A guest that breaks its queue must only lose that.
        if let (Some(vring), Some(queue)) = (vrings.get(usize::from(event)), self.queues.get(thread))
            && let Err(error) = self.drain(vring, queue)
        {
            self.device.report_broken(|| tracing::warn!(%error, "the guest broke a queue of its disk"));
        }
        Ok(())
    }
}

#[cfg(test)]
impl BlockBackend {
    /// Returns the number of notifications of a broken queue.
    pub(crate) fn broken_queues(&self) -> u64 {
        self.device.broken.load(Ordering::Relaxed)
    }
}
