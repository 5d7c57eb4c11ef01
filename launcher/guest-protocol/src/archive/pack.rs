//! Packs a tree into a stream.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tree_packer::Packer;

use super::{about, names_in, unless_gone};

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
