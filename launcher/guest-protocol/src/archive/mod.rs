//! Packs and unpacks trees as tar streams between a guest and its host, for `lamina cp`, `diff` and `commit`.
//!
//! [`tree_packer`] packs; sockets are left out, because tar cannot store them.

mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::ffi::OsString;
use std::io;
use std::path::Path;

pub use pack::pack_tree;
pub use tree_packer::Packer;
pub use unpack::{Copied, Destination, unpack};

/// Returns the names in a directory, in byte order.
///
/// # Errors
/// The directory cannot be read; the error names it.
pub fn names_in(directory: &Path) -> io::Result<Vec<OsString>> {
    Ok(tree_packer::names_in(directory)?)
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
