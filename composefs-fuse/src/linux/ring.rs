//! FUSE over io_uring: requests arrive in, and replies leave from, memory that the kernel knows, so a message takes one
//! system call instead of two, on the processor of the process that waits for it.
//!
//! The kernel (6.14 and later, `fs/fuse/dev_uring.c`) has a queue for every processor that may exist, and uses none of
//! them before each has an entry. What it cannot send over a ring, it still sends through the device.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_setaffinity};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::server::{MAX_REPLY, MAX_REQUEST, Server};
use crate::wire::{InHeader, OutHeader};

/// The most processors for which rings are made: each takes a thread and the memory of a reply.
const PROCESSORS_MAX: usize = 64;

/// `IORING_OP_URING_CMD`
const URING_CMD: u8 = 46;

/// `FUSE_IO_URING_CMD_REGISTER`
const REGISTER: u32 = 1;

/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`
const COMMIT_AND_FETCH: u32 = 2;

/// `struct io_uring_sqe` of 128 bytes, as a command of a driver uses it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Command {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    command: u32,
    pad: u32,
    address: u64,
    length: u32,
    rw_flags: u32,
    user_data: u64,
    buffer_index: u16,
    personality: u16,
    file_index: u32,
    request: CommandRequest,
    unused: [u64; 7],
}

/// `struct fuse_uring_cmd_req`
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CommandRequest {
    flags: u64,
    commit_id: u64,
    queue: u16,
    padding: [u16; 3],
}

/// `struct fuse_uring_req_header`: what is not payload.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    /// The header of the request, and then that of the reply.
    in_out: [u8; 128],
    /// The structure of the request.
    operation: [u8; 128],
    flags: u64,
    commit_id: u64,
    payload_length: u32,
    padding: u32,
    reserved: u64,
}

const _: () = assert!(size_of::<Command>() == 128 && size_of::<Command>() == size_of::<Entry128>());
const _: () = assert!(size_of::<Header>() == 288 && size_of::<rustix::io::IoSlice<'static>>() == 16);

/// The memory that the kernel reads and writes while a request is not being answered.
struct Memory {
    header: Box<Header>,
    /// The payload after the room for an [`OutHeader`], so that a reply is written where it leaves from.
    reply: Box<[u8]>,
    /// The addresses and lengths of the header and the payload.
    places: Box<[[u64; 2]; 2]>,
}

/// One ring with one entry of one queue.
pub(super) struct Ring {
    ring: IoUring<Entry128, cqueue::Entry>,
    /// Dropped unless a command is in flight.
    memory: ManuallyDrop<Memory>,
    /// Whether a command was submitted that has not completed, so that the kernel may access the memory.
    is_in_flight: bool,
    device: Arc<OwnedFd>,
    queue: u16,
    /// The whole request, as it would arrive through the device.
    request: Box<[u8]>,
    /// Whether a request came before it was waited for.
    has_request: bool,
}

/// Creates `threads` rings, and at least one for each processor, if the kernel can use them.
pub(super) fn create(device: &Arc<OwnedFd>, threads: usize) -> Option<Vec<Ring>> {
    let enabled = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").ok()?;
    // The kernel wants room for as many pages as a request may have (`fuse_uring_create`), and replies have room for small ones.
    if !enabled.starts_with(['Y', '1']) || rustix::param::page_size() != 4096 {
        return None;
    }
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let processors = count_processors(&possible).filter(|processors| *processors <= PROCESSORS_MAX)?;
    let rings = (0..threads.max(processors)).map(|number| Ring::new(device, u16::try_from(number % processors).ok()?));
    rings.collect()
}

/// Counts the processors of a list like `0-3,8-11`.
fn count_processors(list: &str) -> Option<usize> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    });
    ranges.sum()
}

impl Ring {
    fn new(device: &Arc<OwnedFd>, queue: u16) -> Option<Self> {
        let ring = IoUring::<Entry128, cqueue::Entry>::builder().build(2);
        let ring = ring.inspect_err(|error| tracing::debug!("no FUSE over io_uring: {error}")).ok()?;
        Some(Self {
            ring,
            memory: ManuallyDrop::new(Memory::new()),
            is_in_flight: false,
            device: Arc::clone(device),
            queue,
            request: vec![0; MAX_REQUEST].into(),
            has_request: false,
        })
    }

    /// Offers the entry to the kernel. Must be called by the thread that waits for requests, on which the kernel then
    /// relies.
    pub(super) fn register(&mut self) -> io::Result<()> {
        let mut processors = CpuSet::new();
        processors.set(usize::from(self.queue));
        // The processor may not be there, or not for this process: then any is good.
        let _ = sched_setaffinity(None, &processors);
        let command = Command { address: self.memory.places.as_ptr() as u64, length: 2, ..self.command(REGISTER, 0) };
        self.submit(command, 0)?;
        // What the kernel refuses, it refuses at once. A request may be there already.
        match self.completed() {
            Some(refused @ ..0) => Err(io::Error::from_raw_os_error(-refused)),
            Some(_) => {
                self.has_request = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn command(&self, command: u32, commit_id: u64) -> Command {
        Command {
            opcode: URING_CMD,
            fd: self.device.as_raw_fd(),
            command,
            request: CommandRequest { commit_id, queue: self.queue, ..CommandRequest::default() },
            ..Command::default()
        }
    }

    /// Submits a command, and waits for `wanted` commands to complete.
    fn submit(&mut self, command: Command, wanted: usize) -> io::Result<()> {
        // SAFETY: both are an `io_uring_sqe` of 128 bytes: plain data, of the same size.
        let entry = unsafe { std::mem::transmute::<Command, Entry128>(command) };
        // SAFETY: the command refers to memory of `self`, which is on the heap and not moved. There is one command at a time,
        // and the memory is accessed only after `Self::completed` has returned its result. `Drop` leaks the memory if that has
        // not happened.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.is_in_flight = true;
        loop {
            match self.ring.submit_and_wait(wanted) {
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Returns the result of the command if it has completed.
    fn completed(&mut self) -> Option<i32> {
        let result = self.ring.completion().next()?.result();
        self.is_in_flight = false;
        Some(result)
    }

    /// Waits for the command to complete. Returns whether there is a request, or else the connection has ended.
    fn wait(&mut self) -> io::Result<bool> {
        if std::mem::take(&mut self.has_request) {
            return Ok(true);
        }
        loop {
            if let Some(result) = self.completed() {
                return match result {
                    0.. => Ok(true),
                    gone if gone == -Errno::NOTCONN.raw_os_error() => Ok(false),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(Errno::INTR.raw_os_error()) => return Err(error),
                _ => {}
            }
        }
    }

    /// Answers requests until the connection has ended.
    pub(super) fn serve(&mut self, server: &Server) -> io::Result<()> {
        loop {
            match self.wait() {
                Ok(true) => {
                    let commit_id = self.memory.header.commit_id;
                    self.answer(server);
                    self.submit(self.command(COMMIT_AND_FETCH, commit_id), 1)?;
                }
                Ok(false) => return Ok(()),
                // The kernel has dropped the entry, and a queue without one is never served again.
                Err(error) => {
                    tracing::error!("the kernel refused a reply over io_uring: {error}");
                    self.register()?;
                }
            }
        }
    }

    fn answer(&mut self, server: &Server) {
        let Memory { header, reply, .. } = &mut *self.memory;
        let length = assemble(header, reply, &mut self.request);
        let sent = server.handle(self.request.get(..length).unwrap_or_default(), reply);
        let unique = InHeader::read_from_prefix(&self.request).map_or(0, |(header, _)| header.unique);
        let answer = match OutHeader::read_from_prefix(reply.get(..sent).unwrap_or_default()) {
            Ok((answer, _)) => answer,
            // Every request that comes over a ring has a reply.
            Err(_) => OutHeader { len: 0, error: -Errno::IO.raw_os_error(), unique },
        };
        header.payload_length = u32::try_from(sent.saturating_sub(OutHeader::SIZE)).unwrap_or_default();
        // The header is larger than any that is written to it.
        let _ = answer.write_to_prefix(&mut header.in_out);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel cancels the command of a ring that is closed at some later time.
        if !self.is_in_flight {
            // SAFETY: it is dropped once, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// Puts a request together from its parts. Returns its length; 0 if the parts do not fit together.
fn assemble(header: &Header, reply: &[u8], request: &mut [u8]) -> usize {
    let Ok((start, _)) = InHeader::read_from_prefix(&header.in_out) else { return 0 };
    let (length, payload_length) = (start.len as usize, header.payload_length as usize);
    let parts = length.checked_sub(InHeader::SIZE + payload_length).and_then(|operation_length| {
        let operation = header.operation.get(..operation_length)?;
        let payload = reply.get(OutHeader::SIZE..OutHeader::SIZE + payload_length)?;
        Some([header.in_out.get(..InHeader::SIZE)?, operation, payload])
    });
    let mut end = 0;
    for part in parts.into_iter().flatten() {
        let Some(place) = request.get_mut(end..end + part.len()) else { return 0 };
        place.copy_from_slice(part);
        end += part.len();
    }
    end
}

impl Memory {
    fn new() -> Self {
        let header = Box::new(Header {
            in_out: [0; 128],
            operation: [0; 128],
            flags: 0,
            commit_id: 0,
            payload_length: 0,
            padding: 0,
            reserved: 0,
        });
        let mut memory = Self { header, reply: vec![0; MAX_REPLY].into(), places: Box::default() };
        let payload = memory.reply.as_mut_ptr() as u64 + OutHeader::SIZE as u64;
        let header = std::ptr::from_mut(&mut *memory.header) as u64;
        *memory.places = [[header, size_of::<Header>() as u64], [payload, (MAX_REPLY - OutHeader::SIZE) as u64]];
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        for (list, count) in [("0", Some(1)), ("0-1\n", Some(2)), ("0-3,8-11,16", Some(9)), ("", None), ("3-1", None)] {
            assert_eq!(count_processors(list), count, "{list}");
        }
    }

    #[test]
    fn a_request_is_put_together_from_its_parts() {
        let mut memory = Memory::new();
        let start = InHeader { len: 40 + 8 + 3, unique: 7, ..InHeader::default() };
        start.write_to_prefix(&mut memory.header.in_out).unwrap();
        memory.header.operation[..8].copy_from_slice(b"operates");
        memory.header.payload_length = 3;
        memory.reply[OutHeader::SIZE..OutHeader::SIZE + 3].copy_from_slice(b"on\0");
        let mut request = vec![0; MAX_REQUEST];
        assert_eq!(assemble(&memory.header, &memory.reply, &mut request), 51);
        assert_eq!(&request[40..51], b"operateson\0");
        for payload_length in [12, u32::MAX] {
            memory.header.payload_length = payload_length;
            assert_eq!(assemble(&memory.header, &memory.reply, &mut request), 0);
        }
        memory.header.payload_length = 3;
        let start = InHeader { len: 40 + 129 + 3, ..start };
        start.write_to_prefix(&mut memory.header.in_out).unwrap();
        assert_eq!(assemble(&memory.header, &memory.reply, &mut request), 0, "more than a header has");
    }
}
