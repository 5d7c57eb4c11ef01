//! Serves a view of image layers to a VM over vhost-user, from threads of this process. [`VhostUserDevice`] is one of two
//! devices:
//!
//! - A **file system** (virtio specification, section 5.11). It needs no mount, no root and no descriptor for each inode,
//!   and it answers with the same [`Server`](composefs_fuse::Server) as kernel FUSE: the same policy and the same
//!   counters. Queue 0 carries requests that want no reply, the others carry everything else. There is no DAX window and no
//!   notification queue.
//! - A read-only **disk** (section 5.2) of anything that is a [`Disk`], such as a view as a file system image
//!   ([`BlockDevice`](layer_store::BlockDevice)). What is in the host's page cache is answered at once, and other requests
//!   by further threads, so a slow read holds up no other.
//!
//! A device reads the guest's memory, so the VMM must allocate that as shared memory. The VMM owns the configuration of a
//! file system (its tag and its number of queues).

#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used))]

mod backend;
mod block;
mod chain;
mod device;
mod error;
mod shutdown;
#[cfg(test)]
mod tests;

pub use block::Disk;
pub use device::VhostUserDevice;
pub use error::VhostUserError;

/// The guest's memory, which the VMM may replace.
type Memory = vm_memory::GuestMemoryAtomic<vm_memory::GuestMemoryMmap>;

/// `VIRTIO_RING_F_INDIRECT_DESC`: a request may have a table of descriptors outside of the queue.
const INDIRECT_DESC: u64 = 1 << 28;

/// `VIRTIO_RING_F_EVENT_IDX`: each side says from which entry on it wants to be notified.
const EVENT_IDX: u64 = 1 << 29;

/// `VIRTIO_F_VERSION_1`: not a legacy device.
const VERSION_1: u64 = 1 << 32;

/// The largest queue of the virtio specification (section 2.7).
const MAX_QUEUE_SIZE: usize = 32_768;
