//! The files of a tar archive in a regular file: located once, then read with random access.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::entries::{Entries, Member, cut_off, within};
use super::error::ImportError;
use super::files::{Files, Supply, read_document};

/// How many links are followed one after another. Docker writes one.
const LINK_DEPTH: usize = 8;

/// The names in a tar archive and what they lead to; the last entry with a name counts.
#[derive(Debug)]
pub(super) struct Names<T> {
    entries: HashMap<String, Named<T>>,
}

#[derive(Debug)]
enum Named<T> {
    File(T),
    Link(String),
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<T> Names<T> {
    pub(super) fn insert_file(&mut self, path: &str, file: T) {
        self.entries.insert(path.to_owned(), Named::File(file));
    }

    /// Records a symbolic or hard link. One that leads out of the archive is ignored.
    pub(super) fn insert_link(&mut self, path: &str, target: &str, symbolic: bool) {
        // The target of a hard link is a name in the archive; that of a symbolic link is relative to its directory.
        let directory = if symbolic { path.rsplit_once('/').map_or("", |(directory, _)| directory) } else { "" };
        if let Some(target) = within(directory, target) {
            self.entries.insert(path.to_owned(), Named::Link(target));
        }
    }

    /// Returns the file that `path` leads to. Like the path of an entry, `path` need not be normalized.
    pub(super) fn resolve(&self, path: &str) -> Option<&T> {
        let path = within("", path)?;
        let mut path = path.as_str();
        for _ in 0..=LINK_DEPTH {
            match self.entries.get(path)? {
                Named::File(file) => return Some(file),
                Named::Link(target) => path = target,
            }
        }
        None
    }
}

/// A tar archive in a regular file.
pub(super) struct Tarball {
    file: File,
    names: Names<Extent>,
    source_name: String,
}

/// The range of an entry's content in the file, in bytes.
#[derive(Clone, Copy, Debug)]
struct Extent {
    offset: u64,
    length: u64,
}

impl Tarball {
    /// Locates every entry: reads the headers and skips the contents.
    pub(super) fn open(file: File, source_name: &str) -> Result<Self, ImportError> {
        let failed = |cause| ImportError::Read { source_name: source_name.to_owned(), cause };
        let total = file.metadata().map_err(failed)?.len();
        let mut names = Names::default();
        let whole = Section { file: &file, at: 0, left: total };
        let mut entries = Entries::new(whole, Section::skip);
        while let Some(entry) = entries.next().map_err(failed)? {
            match entry {
                Member::File { path, length } => {
                    names.insert_file(&path, Extent { offset: entries.position(), length });
                }
                Member::Link { path, target, symbolic } => names.insert_link(&path, &target, symbolic),
            }
        }
        Ok(Self { file, names, source_name: source_name.to_owned() })
    }

    fn section(&self, path: &str) -> Option<Section<'_>> {
        self.names.resolve(path).map(|extent| Section { file: &self.file, at: extent.offset, left: extent.length })
    }
}

impl Files for Tarball {
    fn document(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(section) = self.section(path) else { return Ok(None) };
        let length = section.left;
        read_document(&self.source_name, path, section, length, limit).map(Some)
    }

    fn has_layer(&self, path: &str) -> bool {
        self.names.resolve(path).is_some()
    }

    fn layer(&self, path: &str) -> Result<Option<Supply<'_>>, ImportError> {
        let section = self.section(path);
        Ok(section.map(|section| Supply::Bytes { length: section.left, reader: Box::new(section) }))
    }
}

/// A part of a file, read without moving the file's position, so that several can be read at once.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Section<'_> {
    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(length).ok_or_else(cut_off)?;
        self.at += length;
        Ok(())
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..length).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        match self.file.read_at(buffer, self.at)? {
            0 => Err(cut_off()),
            read => {
                self.at += read as u64;
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let mut names = Names::<()>::default();
        names.entries.insert("a".to_owned(), Named::Link("b".to_owned()));
        names.entries.insert("b".to_owned(), Named::Link("a".to_owned()));
        assert!(names.resolve("a").is_none());
        names.insert_file("b", ());
        assert!(names.resolve("a").is_some());
    }
}
