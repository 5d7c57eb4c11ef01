//! Serves a view of image layers to a VM over vhost-user, from threads of this process.
//!
//! [`VhostUserFs`] is a file system device (virtio specification, section 5.11). It needs no mount, no root and no
//! descriptor for each inode, and it answers with the same [`Server`](composefs_fuse::Server) as kernel FUSE: the same
//! policy and the same counters. Queue 0 carries requests that want no reply, the others carry everything else.
//!
//! The device reads the guest's memory, so the VMM must allocate that as shared memory. The VMM owns the device's
//! configuration (its tag and its number of queues). There is no DAX window and no notification queue.

#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used))]

mod backend;
mod chain;
mod device;
mod error;
mod shutdown;
#[cfg(test)]
mod tests;

pub use device::VhostUserFs;
pub use error::VhostUserError;
