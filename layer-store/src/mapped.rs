//! The only place where this crate maps files.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::regular;

/// The most bytes of a file that is read into memory because it cannot be mapped safely. The index of a layer with a
/// million files has about 100 MB.
const READ_MAX: u64 = 1 << 30;

/// The bytes of an index or a base: mapped from the store, or held in memory.
#[derive(Debug)]
pub(crate) enum IndexBytes {
    /// A file of the store.
    Mapped(Mmap),
    /// Bytes without a file, as in tests and if a store cannot be written; or of a file that others can change.
    Owned(Vec<u8>),
}

impl IndexBytes {
    /// Opens and maps a file of the store: see [`IndexBytes::map`].
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::map(&regular::open(path)?)
    }

    /// Maps a whole file of the store for reading. A file that somebody other than this user and root can change is read
    /// into memory instead.
    ///
    /// The file must be an index or a base in its final place: those are made in `tmp/`, renamed, and never
    /// written or truncated again, which is what makes mapping them sound. If this user or root breaks this rule, the
    /// process may be killed by `SIGBUS`.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        if found.len() == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        if !regular::is_safe(&found) {
            return regular::read_open(file, READ_MAX).map(Self::Owned);
        }
        // SAFETY: files of the store are immutable once they have their name (see above), and nobody else can write this
        // one, so no one changes the bytes while they are borrowed.
        let map = unsafe { Mmap::map(file) }?;
        populate(&map)?;
        Ok(Self::Mapped(map))
    }
}

/// Reads the whole file into memory. This way a read error of the disk is an error here, where the index can be
/// rebuilt, and not a `SIGBUS` while the checksum is verified. Opening an index or a base reads all of it anyway.
fn populate(map: &Mmap) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match map.advise(memmap2::Advice::PopulateRead) {
        // The error of madvise(2) in place of the signal.
        Err(cause) if cause.raw_os_error() == Some(rustix::io::Errno::FAULT.raw_os_error()) => {
            return Err(rustix::io::Errno::IO.into());
        }
        // Linux before 5.14 does not support this.
        _ => {}
    }
    #[cfg(not(target_os = "linux"))]
    let _ = map;
    Ok(())
}

impl Deref for IndexBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
