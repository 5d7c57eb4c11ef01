//! Parsing a request. Its bytes come from a kernel, or from a guest that may lie, so every access is checked.

use crate::wire::InHeader;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The length of the longest name, `NAME_MAX`.
const NAME_MAX: usize = 255;

/// A request with a complete header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FuseRequest<'a> {
    pub(crate) header: InHeader,
    body: &'a [u8],
}

impl<'a> FuseRequest<'a> {
    /// Splits off the header. Returns `None` if it is incomplete, because then the request cannot be answered.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = InHeader::read_from_prefix(bytes).ok()?;
        Some(Self { header, body })
    }

    /// Returns the body, whose length the header tells. Fails with `EINVAL` if fewer bytes came.
    fn body(&self) -> Result<&'a [u8], Errno> {
        let length = usize::try_from(self.header.len).map_err(|_| Errno::INVAL)?;
        let length = length.checked_sub(InHeader::SIZE).ok_or(Errno::INVAL)?;
        self.body.get(..length).ok_or(Errno::INVAL)
    }

    /// Returns the structure at the beginning of the body, and the bytes after it.
    pub(crate) fn structure<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<(T, &'a [u8]), Errno> {
        T::read_from_prefix(self.body()?).map_err(|_| Errno::INVAL)
    }

    /// Returns the body as one name.
    pub(crate) fn name(&self) -> Result<&'a [u8], Errno> {
        name(self.body()?)
    }
}

/// Returns the bytes before the NUL that must end a name: 1 to 255 of them.
pub(crate) fn name(bytes: &[u8]) -> Result<&[u8], Errno> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(Errno::INVAL)?;
    match bytes.get(..end) {
        None | Some([]) => Err(Errno::INVAL),
        Some(name) if name.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        Some(name) => Ok(name),
    }
}
