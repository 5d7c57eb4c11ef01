//! One request of a guest: a chain of descriptors, the readable ones first.
//!
//! The guest may write anything there, and may change it at any time. So the request is copied out once and only the
//! copy is used; the reply is built in a buffer of this process and copied in. The library checks each address
//! against the guest's memory.

use composefs_fuse::{MAX_REPLY, MAX_REQUEST, Server};
use std::io::{Read, Write};
use std::ops::Deref;
use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::GuestMemoryMmap;

/// The most descriptors that a request may have. The largest `READ` that the handshake grants has 256 pages, and three
/// more descriptors for header and arguments; the largest read of a disk has 126 and two. This is the queue length that
/// hypervisors choose, so a chain without an indirect table cannot be longer. With such a table the library would follow
/// 65,535 for each entry of the queue.
pub(crate) const MAX_DESCRIPTORS: usize = 1024;

/// The buffers that a thread needs to answer one request at a time.
pub(super) struct Buffers {
    request: Box<[u8]>,
    reply: Box<[u8]>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { request: vec![0; MAX_REQUEST].into(), reply: vec![0; MAX_REPLY].into() }
    }
}

/// Answers the request in `chain`. Returns the number of bytes written to it: 0 if there is no reply, or none that fits.
pub(super) fn answer<M>(
    server: &Server,
    memory: &GuestMemoryMmap,
    chain: &DescriptorChain<M>,
    buffers: &mut Buffers,
) -> u32
where
    M: Deref<Target = GuestMemoryMmap> + Clone,
{
    if chain.clone().nth(MAX_DESCRIPTORS).is_some() {
        tracing::debug!("the guest sent a request with too many descriptors");
        return 0;
    }
    let (Ok(mut readable), Ok(mut writable)) = (Reader::new(memory, chain.clone()), Writer::new(memory, chain.clone()))
    else {
        tracing::debug!("the guest sent a request outside of its memory");
        return 0;
    };
    // A request longer than any that we know is cut off. Its header no longer matches, so it is answered with EINVAL.
    let length = readable.available_bytes().min(buffers.request.len());
    let (Some(request), room) = (buffers.request.get_mut(..length), writable.available_bytes()) else { return 0 };
    if readable.read_exact(request).is_err() {
        return 0;
    }
    let room = room.min(buffers.reply.len());
    let Some(reply) = buffers.reply.get_mut(..room) else { return 0 };
    let sent = server.handle(request, reply);
    let Some(reply) = reply.get(..sent) else { return 0 };
    match writable.write_all(reply) {
        Ok(()) => u32::try_from(sent).unwrap_or(0),
        Err(error) => {
            tracing::debug!(%error, "a reply does not fit into the guest's request");
            0
        }
    }
}
