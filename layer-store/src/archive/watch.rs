//! Readers that stop when the import is cancelled.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::observer::{CANCELLATION_POLL, Halt, Observer};

/// A reader that stops when the import is cancelled.
pub(super) struct Watched<'a, R> {
    pub(super) source: R,
    pub(super) cancellation: &'a Halt,
}

impl<R: Read + Wait> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancellation.cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            if self.source.wait()? {
                return self.source.read(buffer);
            }
        }
    }
}

/// Whether reading would block.
pub(super) trait Wait {
    /// Waits for input, but not longer than a cancelled import may take to stop. Returns `false` if there is nothing
    /// yet.
    fn wait(&mut self) -> io::Result<bool>;
}

impl Wait for &File {
    fn wait(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// A pipe, socket or terminal. Standard input is read without a buffer, because poll would not see what is in one.
pub(super) struct Pipe<'a> {
    pub(super) source: BorrowedFd<'a>,
}

impl Wait for Pipe<'_> {
    fn wait(&mut self) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: CANCELLATION_POLL.subsec_nanos().into() };
        let mut ready = [PollFd::new(&self.source, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.source, buffer)?)
    }
}

/// Counts the bytes read, reports them from time to time, and stops when the import is cancelled.
pub(super) struct Counted<'a, F> {
    source: &'a mut (dyn Read + Send),
    cancellation: &'a Halt,
    tell: F,
    read: u64,
    told: u64,
}

/// How many bytes to read between two reports.
const REPORT_EVERY: u64 = 256 << 10;

impl<'a, F: Fn(u64)> Counted<'a, F> {
    pub(super) fn new(source: &'a mut (dyn Read + Send), cancellation: &'a Halt, tell: F) -> Self {
        Self { source, cancellation, tell, read: 0, told: 0 }
    }
}

impl<F: Fn(u64)> Read for Counted<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancellation.cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.source.read(buffer)?;
        self.read += read as u64;
        if self.read - self.told >= REPORT_EVERY {
            self.told = self.read;
            (self.tell)(self.read);
        }
        Ok(read)
    }
}
