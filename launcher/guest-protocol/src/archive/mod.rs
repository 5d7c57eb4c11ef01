//! Packs and unpacks trees as tar streams between a guest and its host, for `lamina cp`, `diff` and `commit`.
//!
//! [`tree_packer`] packs; sockets are left out, because tar cannot store them.

mod guard;
#[cfg(test)]
mod tests;
mod unpack;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use tree_packer::Packer;
pub use unpack::{Copied, Destination, unpack, unpack_with_owners};

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

/// Packs what is at `path` and everything below it, under `name`; an empty name means the root of the stream. Files that
/// no longer exist when they are reached are left out.
///
/// # Errors
/// A path cannot be read (the error names it), or the writer failed.
pub fn pack_tree(packer: &mut Packer<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    let mut todo = pack_node(packer, path, name)?;
    while let Some((path, name)) = todo.pop() {
        todo.extend(unless_gone(pack_node(packer, &path, &name))?.into_iter().flatten());
    }
    Ok(())
}

/// Packs one file or directory. Returns the paths in it with their names, the last first.
fn pack_node(packer: &mut Packer<impl Write>, path: &Path, name: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let found = fs::symlink_metadata(path).map_err(about(path))?;
    packer.entry(path, name, &found, &[])?;
    if !found.is_dir() {
        return Ok(Vec::new());
    }
    let names = names_in(path)?;
    Ok(names.into_iter().rev().map(|child| (path.join(&child), name.join(&child))).collect())
}
