//! A read-only disk as a vhost-user-blk device.

mod backend;
mod in_flight;
mod request;
#[cfg(test)]
mod tests;
mod workers;

use std::io;

use layer_store::BlockDevice;

pub(crate) use backend::{BlockBackend, QUEUES_MAX};

/// What a disk shows. Several threads may read it at once.
pub trait Disk: std::fmt::Debug + Send + Sync + 'static {
    /// Returns the length in bytes: a multiple of 512.
    fn length(&self) -> u64;

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// It cannot be read. The guest gets an I/O error for this request.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Does the same if that needs no wait. Returns whether it was done; if not, the content of `buffer` is unspecified.
    ///
    /// # Errors
    /// As for [`Disk::read_at`].
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
}

impl Disk for BlockDevice {
    fn length(&self) -> u64 {
        self.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_cached_at(buffer, offset)
    }
}
