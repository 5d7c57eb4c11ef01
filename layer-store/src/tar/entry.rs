//! One entry of a tar, after long names and PAX records are applied.

use std::sync::Arc;

use super::error::Malformed;
use super::header::{Header, HeaderError};
use super::pax::Records;
use super::sparse::Segment;
use crate::Timestamp;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A regular file of `size` bytes. What no segment covers is zeros.
    Regular {
        size: u64,
        segments: Vec<Segment>,
    },
    /// Another name of `target`, as written in the entry.
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Directory,
    Fifo,
}

/// One entry of the archive, after long names and PAX records are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path as written in the archive.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// `0` to `0o7777`.
    pub(crate) permissions: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Names and values in byte order of the names, each name once.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Makes an entry from the header and the records.
    pub(super) fn new(path: Vec<u8>, kind: EntryKind, header: &Header, records: Records) -> Result<Self, Malformed> {
        let id = |record: Option<u64>, field: Result<i64, HeaderError>, name| match record {
            Some(id) => u32::try_from(id).map_err(|_| Malformed::Range(name)),
            None => u32::try_from(field?).map_err(|_| Malformed::Range(name)),
        };
        Ok(Self {
            path,
            kind,
            // Only the lower twelve bits are permissions; some writers add the type.
            permissions: u32::try_from(header.mode()? & 0o7777).map_err(|_| Malformed::Range("mode"))?,
            uid: id(records.uid, header.uid(), "uid")?,
            gid: id(records.gid, header.gid(), "gid")?,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => Timestamp { seconds: header.mtime()?, nanoseconds: 0 },
            },
            xattrs: Arc::unwrap_or_clone(records.xattrs).into_iter().collect(),
        })
    }
}

/// Returns the major and minor number. Linux has 12 bits for the major and 20 for the minor (`include/linux/kdev_t.h`).
pub(super) fn device(header: &Header, records: &Records) -> Result<(u32, u32), Malformed> {
    let (major, minor) = header.device()?;
    let number = |record: Option<u64>, field: i64, limit: u32, name| {
        let number = record.or_else(|| u64::try_from(field).ok()).and_then(|number| u32::try_from(number).ok());
        number.filter(|&number| number < limit).ok_or(Malformed::Range(name))
    };
    Ok((
        number(records.device_major, major, 1 << 12, "major device number")?,
        number(records.device_minor, minor, 1 << 20, "minor device number")?,
    ))
}
