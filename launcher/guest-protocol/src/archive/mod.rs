//! Packs and unpacks trees as tar streams between a guest and its host, for `lamina cp`, `diff` and `commit`.
//!
//! Packing writes GNU headers, and PAX records for what these cannot store: times before 1970 or with nanoseconds
//! (`mtime`), extended attributes (`SCHILY.xattr.*`). A file with several names is packed once; its other names are
//! hard links. Sockets are left out, because tar cannot store them.

mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use pack::Packer;
pub use unpack::{Copied, Destination, unpack};

/// Returns the names in a directory, in byte order.
///
/// # Errors
/// The directory cannot be read; the error names it.
pub fn names_in(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).map_err(about(directory))?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>().map_err(about(directory))?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// Adds the path to an error.
pub fn about(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Turns the error for a file that no longer exists into `None`: other processes may change a tree while it is walked.
///
/// # Errors
/// Any other error.
pub fn unless_gone<T>(look: io::Result<T>) -> io::Result<Option<T>> {
    match look {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        look => look.map(Some),
    }
}
