//! One request to a disk: a chain of descriptors, the readable ones first.
//!
//! ```text
//! header   16 bytes, readable: type (u32), reserved (u32), first sector (u64), little-endian
//! data     writable, for a read: any number of sectors of 512 bytes
//! status   the last writable byte
//! ```
//!
//! The guest may write anything there, and may change it at any time, so the header is copied out once. The library
//! checks each address against the guest's memory.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use composefs_fuse::report;
use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::GuestMemoryMmap;

use super::Disk;
use crate::chain::MAX_DESCRIPTORS;

/// A chain that holds the memory which it is in.
pub(super) type Chain = DescriptorChain<Arc<GuestMemoryMmap>>;

/// Bytes that are read at once: the largest read-ahead of a guest that nobody has tuned.
pub(super) const PIECE: usize = 128 << 10;

/// The most bytes that are looked for in the page cache before a request is given to another thread.
const CACHED_MAX: usize = 1 << 20;

/// The bytes of a serial (`VIRTIO_BLK_ID_BYTES`).
const SERIAL: usize = 20;

/// Types of requests (`VIRTIO_BLK_T_*`).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

const SECTOR: u64 = 512;

/// The outcome of a request, as the guest reads it (`VIRTIO_BLK_S_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Whether a request may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// Why a request was not carried out.
enum Failure {
    /// It is told the guest.
    Status(Status),
    /// It must wait, and may not.
    MustWait,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "a request to a disk failed");
        Self::Status(Status::IoError)
    }
}

/// Answers the requests to one disk.
#[derive(Debug)]
pub(super) struct Responder {
    disk: Arc<dyn Disk>,
    serial: [u8; SERIAL],
    /// Reads of the disk that failed.
    failed: AtomicU64,
}

impl Responder {
    pub(super) fn new(disk: Arc<dyn Disk>, serial: &str) -> Self {
        let mut padded = [0; SERIAL];
        padded.iter_mut().zip(serial.bytes()).for_each(|(to, byte)| *to = byte);
        Self { disk, serial: padded, failed: AtomicU64::new(0) }
    }

    /// Returns the number of sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.disk.length() / SECTOR
    }

    /// Answers the request in `chain`, through a buffer of [`PIECE`] bytes. Returns the number of bytes written to it: 0 if
    /// it has no room for the status. Returns `None`, and has told the guest nothing, if it would have to wait but may not.
    pub(super) fn answer(&self, chain: &Chain, buffer: &mut [u8], wait: Wait, go_on: &dyn Fn() -> bool) -> Option<u32> {
        if chain.clone().nth(MAX_DESCRIPTORS).is_some() {
            tracing::debug!("the guest sent a request with too many descriptors");
            return Some(0);
        }
        let memory = chain.memory();
        let (Ok(mut readable), Ok(mut data)) = (Reader::new(memory, chain.clone()), Writer::new(memory, chain.clone()))
        else {
            tracing::debug!("the guest sent a request outside of its memory");
            return Some(0);
        };
        let Some(length) = data.available_bytes().checked_sub(1) else { return Some(0) };
        let Ok(mut status) = data.split_at(length) else { return Some(0) };
        let outcome = match self.carry_out(&mut readable, &mut data, buffer, wait, go_on) {
            Ok(()) => Status::Ok,
            Err(Failure::Status(status)) => status,
            Err(Failure::MustWait) => return None,
        };
        match status.write_all(&[outcome as u8]) {
            Ok(()) => Some(u32::try_from(length).unwrap_or(u32::MAX).saturating_add(1)),
            Err(_) => Some(0),
        }
    }

    /// Logs why the disk cannot be read, unless it has failed often.
    fn report(&self, error: &io::Error) {
        let log = || tracing::error!("the root's disk: {error}; the guest gets an I/O error");
        report(self.failed.fetch_add(1, Ordering::Relaxed), "an unreadable block of a disk", log);
    }

    fn carry_out(
        &self,
        readable: &mut Reader<'_>,
        data: &mut Writer<'_>,
        buffer: &mut [u8],
        wait: Wait,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let (mut kind, mut reserved, mut sector) = ([0; 4], [0; 4], [0; 8]);
        readable.read_exact(&mut kind)?;
        readable.read_exact(&mut reserved)?;
        readable.read_exact(&mut sector)?;
        match u32::from_le_bytes(kind) {
            IN => self.read(u64::from_le_bytes(sector), data, buffer, wait, go_on),
            GET_ID => {
                let length = data.available_bytes().min(SERIAL);
                Ok(data.write_all(self.serial.get(..length).unwrap_or_default())?)
            }
            // Nothing can be waiting to be written.
            FLUSH => Ok(()),
            OUT => Err(Failure::Status(Status::IoError)),
            _ => Err(Failure::Status(Status::Unsupported)),
        }
    }

    fn read(
        &self,
        sector: u64,
        data: &mut Writer<'_>,
        buffer: &mut [u8],
        wait: Wait,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let mut left = data.available_bytes();
        let start = sector.checked_mul(SECTOR);
        let end = start.and_then(|start| start.checked_add(left as u64)).filter(|&end| end <= self.disk.length());
        let (Some(mut at), Some(_), true) = (start, end, (left as u64).is_multiple_of(SECTOR)) else {
            return Err(Failure::Status(Status::IoError));
        };
        if wait == Wait::No && left > CACHED_MAX {
            return Err(Failure::MustWait);
        }
        while left > 0 {
            if !go_on() {
                return Err(Failure::Status(Status::IoError));
            }
            let length = left.min(buffer.len());
            let Some(piece) = buffer.get_mut(..length).filter(|piece| !piece.is_empty()) else {
                return Err(Failure::Status(Status::IoError));
            };
            let is_read = match wait {
                Wait::Yes => self.disk.read_at(piece, at).map(|()| true),
                Wait::No => self.disk.read_cached_at(piece, at),
            };
            if !is_read.inspect_err(|error| self.report(error))? {
                return Err(Failure::MustWait);
            }
            data.write_all(piece)?;
            left -= length;
            at += length as u64;
        }
        Ok(())
    }
}
