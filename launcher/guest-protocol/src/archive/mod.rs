//! Trees as tar streams, between a guest and its host: what `lamina cp`, `diff` and `commit` are made of.
//!
//! Packing gives GNU headers with PAX records for what they cannot hold: times before 1970 or with nanoseconds
//! (`mtime`), extended attributes (`SCHILY.xattr.*`). A file with several names is packed once; its other names are
//! hard links. Sockets are left out, as tar has none.

mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use pack::Packer;
pub use unpack::{Copied, Target, unpack};

/// The names in a directory, in byte order.
///
/// # Errors
/// Names the directory that cannot be read.
pub fn names_in(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).map_err(about(directory))?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>().map_err(about(directory))?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// Puts the path before an error.
pub fn about(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// What a look has found, or nothing where that is gone: other processes go on working in a tree while it is walked.
///
/// # Errors
/// Any other error of the look.
pub fn unless_gone<T>(look: io::Result<T>) -> io::Result<Option<T>> {
    match look {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        look => look.map(Some),
    }
}
