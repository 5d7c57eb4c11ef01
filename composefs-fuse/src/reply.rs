//! Writing a reply into the buffer of a transport.

use crate::wire::OutHeader;
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

/// A reply that grows after the room for its header, and never past the transport's buffer.
#[derive(Debug)]
pub(crate) struct Reply<'b> {
    buffer: &'b mut [u8],
    length: usize,
}

impl<'b> Reply<'b> {
    /// Begins a reply in `buffer`. Returns `None` if not even a header fits.
    pub(crate) fn new(buffer: &'b mut [u8]) -> Option<Self> {
        (buffer.len() >= OutHeader::SIZE).then_some(Self { buffer, length: OutHeader::SIZE })
    }

    /// Returns the room that is left, to be filled in place before [`Reply::extend`].
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.length..).unwrap_or_default()
    }

    /// Returns the length of the body so far.
    pub(crate) fn body_length(&self) -> usize {
        self.length.saturating_sub(OutHeader::SIZE)
    }

    /// Makes the first `bytes` of the room part of the reply.
    pub(crate) fn extend(&mut self, bytes: usize) {
        self.length = self.length.saturating_add(bytes).min(self.buffer.len());
    }

    /// Appends `bytes`. Fails with `EIO` if the sender left too little room for the answer.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.room().get_mut(..bytes.len()).ok_or(Errno::IO)?.copy_from_slice(bytes);
        self.extend(bytes.len());
        Ok(())
    }

    /// Appends a structure.
    pub(crate) fn put_structure(&mut self, structure: &(impl IntoBytes + Immutable)) -> Result<(), Errno> {
        self.put(structure.as_bytes())
    }

    /// Writes the header and returns the length of the reply. The body is dropped if `outcome` is an error.
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
