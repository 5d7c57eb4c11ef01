//! A request taken apart. Its bytes come from a kernel, or from a guest that may lie: every access is checked.

use crate::wire::InHeader;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Bytes of the longest name, `NAME_MAX`.
const NAME_MAX: usize = 255;

/// A request whose header is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) header: InHeader,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes the header off, or nothing where there is not even that: then nobody can be answered.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = InHeader::read_from_prefix(bytes).ok()?;
        Some(Self { header, body })
    }

    /// The body as long as the header says, or `EINVAL` where that is not what came.
    fn body(&self) -> Result<&'a [u8], Errno> {
        let length = usize::try_from(self.header.len).map_err(|_| Errno::INVAL)?;
        let length = length.checked_sub(InHeader::SIZE).ok_or(Errno::INVAL)?;
        self.body.get(..length).ok_or(Errno::INVAL)
    }

    /// The structure that the body starts with, and what follows it.
    pub(crate) fn structure<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<(T, &'a [u8]), Errno> {
        T::read_from_prefix(self.body()?).map_err(|_| Errno::INVAL)
    }

    /// The body as one name.
    pub(crate) fn name(&self) -> Result<&'a [u8], Errno> {
        name(self.body()?)
    }
}

/// The bytes before the NUL that must end a name: 1 to 255 of them.
pub(crate) fn name(bytes: &[u8]) -> Result<&[u8], Errno> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(Errno::INVAL)?;
    match bytes.get(..end) {
        None | Some([]) => Err(Errno::INVAL),
        Some(name) if name.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        Some(name) => Ok(name),
    }
}
