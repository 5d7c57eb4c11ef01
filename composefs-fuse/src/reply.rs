//! A reply being written into the buffer of a transport.

use crate::wire::OutHeader;
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

/// The body of a reply: grows behind the room left for the header and never past the transport's buffer.
#[derive(Debug)]
pub(crate) struct Reply<'b> {
    buffer: &'b mut [u8],
    length: usize,
}

impl<'b> Reply<'b> {
    /// An empty reply in `buffer`, or nothing where not even a header fits.
    pub(crate) fn new(buffer: &'b mut [u8]) -> Option<Self> {
        (buffer.len() >= OutHeader::SIZE).then_some(Self { buffer, length: OutHeader::SIZE })
    }

    /// The room behind what is written, to be filled in place; [`Reply::extend`] then keeps what was filled.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.length..).unwrap_or_default()
    }

    /// Bytes of body so far.
    pub(crate) fn body_length(&self) -> usize {
        self.length.saturating_sub(OutHeader::SIZE)
    }

    /// Makes the first `bytes` of the room part of the reply.
    pub(crate) fn extend(&mut self, bytes: usize) {
        self.length = self.length.saturating_add(bytes).min(self.buffer.len());
    }

    /// Appends `bytes`, or `EIO` where the sender left too little room for its own answer.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.room().get_mut(..bytes.len()).ok_or(Errno::IO)?.copy_from_slice(bytes);
        self.extend(bytes.len());
        Ok(())
    }

    /// Appends a structure.
    pub(crate) fn put_structure(&mut self, structure: &(impl IntoBytes + Immutable)) -> Result<(), Errno> {
        self.put(structure.as_bytes())
    }

    /// Drops what was written and writes the header of an error, or of what is there. Returns the bytes to send.
    pub(crate) fn finish(mut self, unique: u64, outcome: Result<(), Errno>) -> usize {
        let error = match outcome {
            Ok(()) => 0,
            Err(errno) => {
                self.length = OutHeader::SIZE;
                -errno.raw_os_error()
            }
        };
        let len = u32::try_from(self.length).unwrap_or(u32::MAX);
        let header = OutHeader { len, error, unique };
        match self.buffer.get_mut(..OutHeader::SIZE) {
            Some(front) => front.copy_from_slice(header.as_bytes()),
            None => return 0,
        }
        self.length
    }
}
