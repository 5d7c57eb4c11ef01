//! Which of the writes init made itself.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Change, Stack};
use guest_protocol::archive::about;

/// What init itself put into an upper directory: paths, each with a mark that shows whether the file has changed since.
/// The file `own` holds `MARK PATH` and a NUL byte for each.
#[derive(Debug, Default)]
pub(crate) struct Own(HashMap<PathBuf, String>);

impl Own {
    const FILE: &str = "own";

    /// Notes what is in the upper directory now, if nothing has been noted before. Otherwise notes only `written`, the
    /// paths (without a leading slash) that init has written since.
    ///
    /// # Errors
    /// The directory cannot be read, or the note cannot be written.
    pub(crate) fn note(stack: &Stack, written: &[PathBuf]) -> io::Result<()> {
        let noted = Self::read(&stack.place)?;
        if noted.is_some() && written.is_empty() {
            return Ok(());
        }
        let paths = match &noted {
            None => stack.changes()?.into_iter().map(|change| change.path).collect(),
            Some(_) => written.to_vec(),
        };
        let mut own = noted.unwrap_or_default();
        for path in paths {
            let at = stack.upper.join(&path);
            match fs::symlink_metadata(&at) {
                Ok(meta) => drop(own.0.insert(path, mark(&meta))),
                Err(error) => return Err(about(&at)(error)),
            }
        }
        own.write(&stack.place)
    }

    /// Replaces the note in one step: a guest may be ended at any time.
    fn write(&self, place: &Path) -> io::Result<()> {
        let mut lines = Vec::new();
        for (path, mark) in &self.0 {
            lines.extend(format!("{mark} ").into_bytes());
            lines.extend(path.as_os_str().as_bytes());
            lines.push(0);
        }
        let (file, new) = (place.join(Self::FILE), place.join("own.new"));
        fs::write(&new, lines).and_then(|()| fs::rename(&new, &file)).map_err(about(&file))
    }

    /// Returns what has been noted, or `None` if nothing has been.
    pub(super) fn read(place: &Path) -> io::Result<Option<Self>> {
        let file = place.join(Self::FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(about(&file)(error)),
        };
        let lines = bytes.split(|&byte| byte == 0).filter_map(|line| {
            let space = line.iter().position(|&byte| byte == b' ')?;
            let mark = std::str::from_utf8(&line[..space]).ok()?.to_owned();
            Some((PathBuf::from(std::ffi::OsString::from_vec(line[space + 1..].to_vec())), mark))
        });
        Ok(Some(Self(lines.collect())))
    }

    /// Returns whether a path is as init left it.
    pub(super) fn is(&self, path: &Path, meta: &Metadata) -> bool {
        self.0.get(path).is_some_and(|noted| meta.is_dir() || *noted == mark(meta))
    }

    /// Leaves out the directories that init made and that hold no other change.
    pub(super) fn drop_empty(&self, changes: &mut Vec<Change>) {
        let mut kept: Vec<Change> = Vec::with_capacity(changes.len());
        // From the end, so that a directory comes after its entries.
        for change in changes.drain(..).rev() {
            let is_used = kept.last().is_some_and(|last| last.path.starts_with(&change.path));
            if is_used || !change.directory || !self.0.contains_key(&change.path) {
                kept.push(change);
            }
        }
        kept.reverse();
        *changes = kept;
    }
}

/// Returns the modification time, inode number and size. A file that is rewritten within one tick of the clock differs
/// in at least one of them.
fn mark(meta: &Metadata) -> String {
    format!("{}.{:09},{},{}", meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len())
}
