//! Parses a layer's tar as a stream, without doing any I/O itself.
//!
//! [`Parser`] is fed the uncompressed bytes in pieces of any size and calls a [`Sink`] for every
//! entry and for the content of regular files. It understands V7, ustar, star, GNU (long names,
//! base-256 numbers, old sparse maps) and PAX (local and global records, sparse formats 0.0, 0.1
//! and 1.0, extended attributes of `SCHILY.xattr.*` and `LIBARCHIVE.xattr.*`).
//!
//! Decisions where existing readers differ:
//!
//! - A global PAX header (`g`) applies to all entries after it, as POSIX requires (pax, "Extended Header
//!   Precedence"); a local record takes precedence, and an empty value removes a record.
//! - Hard links, symbolic links, devices, FIFOs and directories have no body, whatever their size field
//!   says. Go's `archive/tar` reads them in this way, and it writes and reads nearly all layers.
//! - Type `NUL` with a trailing slash is a directory (V7); type `0` with one is a regular file.
//! - Unknown vendor-specific entry types are skipped with their body. A multi-volume continuation (`M`) is
//!   refused: its content would be incomplete.
//! - The archive ends at two zero blocks or at the end of the stream on a block boundary; what follows
//!   two zero blocks is part of the blob but not of any entry. A single zero block before a header is refused.
//! - POSIX ACLs in text (`SCHILY.acl.*`), access times and change times are ignored.

mod entry;
mod error;
mod header;
mod number;
mod parser;
mod path;
mod pax;
mod sparse;

pub(crate) use entry::{Entry, EntryKind};
pub(crate) use error::TarError;
pub(crate) use parser::{Parser, Sink};
pub(crate) use path::{NormalPath, PathError};
pub(crate) use pax::split_record;
pub(crate) use sparse::Segment;
