//! Reads the entries of an archive in order, from a reader that cannot seek.
//!
//! The reader of the `tar` crate cannot be used: its handle to an entry's content must stay on one thread,
//! and ingesting a layer takes several. This module reads only the archives that contain layers, not the
//! layers themselves, so it handles only regular files and links.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::tar::split_record;

/// The size of a header in bytes, and the unit to which contents are padded.
const BLOCK: u64 = 512;
/// The longest extended header or long name that is read, in bytes.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A regular file, whose `length` bytes follow.
    File { path: String, length: u64 },
    /// A link, with its target as written.
    Link { path: String, target: String, symbolic: bool },
}

/// Reads an archive header by header.
#[derive(Debug)]
pub(super) struct Entries<R> {
    archive: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// Bytes of the current entry that have not been read yet, and the padding after them.
    left: u64,
    padding: u64,
    /// The current offset in the archive, in bytes.
    position: u64,
}

/// What extended headers say about the entry that follows them.
#[derive(Default, PartialEq)]
struct Extension {
    path: Option<String>,
    target: Option<String>,
    size: Option<u64>,
}

impl<R: Read> Entries<R> {
    /// Reads `archive`; `skip` moves forward in it.
    pub(super) fn new(archive: R, skip: fn(&mut R, u64) -> io::Result<()>) -> Self {
        Self { archive, skip, left: 0, padding: 0, position: 0 }
    }

    /// Returns the next file or link whose name is text and stays within the archive, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extension = Extension::default();
        loop {
            (self.skip)(&mut self.archive, self.left + self.padding)?;
            self.position += self.left + self.padding;
            let Some(header) = self.header()? else {
                return if extension == Extension::default() { Ok(None) } else { Err(cut_off()) };
            };
            self.left = extension.size.map_or_else(|| header.entry_size(), Ok)?;
            self.padding = self.left.next_multiple_of(BLOCK) - self.left;
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.long_name()?),
                EntryType::GNULongLink => extension.target = Some(self.long_name()?),
                EntryType::XHeader => self.pax(&mut extension)?,
                EntryType::XGlobalHeader => {}
                kind => {
                    if let Some(entry) = self.entry(&header, kind, std::mem::take(&mut extension)) {
                        return Ok(Some(entry));
                    }
                }
            }
        }
    }

    /// Returns the offset of the current entry's content in the archive, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    fn entry(&self, header: &Header, kind: EntryType, extension: Extension) -> Option<Member> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let path = within("", &extension.path.or_else(|| text(&header.path_bytes()))?)?;
        match kind {
            EntryType::Regular | EntryType::Continuous => Some(Member::File { path, length: self.left }),
            EntryType::Symlink | EntryType::Link => {
                let target = extension.target.or_else(|| text(&header.link_name_bytes()?))?;
                Some(Member::Link { path, target, symbolic: kind == EntryType::Symlink })
            }
            _ => None,
        }
    }

    /// Returns the next header, or `None` at the end: a block of zeros, or the end of the stream on a block boundary.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        match read_full(&mut self.archive, block)? {
            0 => return Ok(None),
            read if read < block.len() => return Err(cut_off()),
            _ => {}
        }
        self.position += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if super::sniff::form(block) != super::sniff::Form::Tar {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has a damaged tar header; copy it again"));
        }
        Ok(Some(header))
    }

    /// Reads the content of an extension entry.
    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > EXTENSION_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has a file name longer than a megabyte"));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn long_name(&mut self) -> io::Result<String> {
        let mut bytes = self.extension()?;
        bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        // No JSON file of an archive mentions a name that is not text.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn pax(&mut self, extension: &mut Extension) -> io::Result<()> {
        let bytes = self.extension()?;
        for (key, value) in pax_records(&bytes) {
            let value = std::str::from_utf8(value).ok().map(str::to_owned);
            match key {
                b"path" => extension.path = value,
                b"linkpath" => extension.target = value,
                b"size" => extension.size = value.and_then(|value| value.parse().ok()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns the records `length key=value\n` of an extended header (pax, "Extended Header"), up to the first bad one.
/// Records are split by their length, because a value may contain newlines.
fn pax_records(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (key, value, rest) = split_record(bytes)?;
        bytes = rest;
        Some((key, value))
    })
}

/// Reads the content of the current entry.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..length).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        match self.archive.read(buffer)? {
            0 => Err(cut_off()),
            read => {
                self.left -= read as u64;
                self.position += read as u64;
                Ok(read)
            }
        }
    }
}

pub(super) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of a file; copy it again")
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut bytes = Vec::with_capacity(buffer.len());
    let read = reader.take(buffer.len() as u64).read_to_end(&mut bytes)?;
    if let Some(start) = buffer.get_mut(..read) {
        start.copy_from_slice(&bytes);
    }
    Ok(read)
}

/// Resolves `path` relative to `directory`, without `.`, `..` and doubled slashes; `None` if it leads out of the
/// archive.
///
/// An absolute path starts at the root of the archive, never at the root of the host.
pub(super) fn within(directory: &str, path: &str) -> Option<String> {
    let directory = if path.starts_with('/') { "" } else { directory };
    let mut words: Vec<&str> = Vec::new();
    for word in directory.split('/').chain(path.split('/')) {
        match word {
            "" | "." => {}
            ".." => {
                words.pop()?;
            }
            word => words.push(word),
        }
    }
    Some(words.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(archive: &mut &[u8], length: u64) -> io::Result<()> {
        let copied = io::copy(&mut archive.take(length), &mut io::sink())?;
        if copied < length { Err(cut_off()) } else { Ok(()) }
    }

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(600);
        builder.append_data(&mut header.clone(), format!("{}/layer.tar", "d".repeat(200)), &[7; 600][..]).unwrap();
        builder
            .append_pax_extensions([("user.x", &b"\n9 path=a\n"[..]), ("path", b"pax/named"), ("size", b"2")])
            .unwrap();
        header.set_size(0);
        header.set_path("x").unwrap();
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
        builder.get_mut().extend_from_slice(&[b'h', b'i'].iter().copied().chain([0; 510]).collect::<Vec<_>>());
        header.set_entry_type(EntryType::Symlink);
        builder.append_link(&mut header, "a/b", "../c").unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn long_names_and_extended_headers_are_followed() {
        let bytes = archive();
        let mut entries = Entries::new(bytes.as_slice(), skip);
        let long = format!("{}/layer.tar", "d".repeat(200));
        assert_eq!(entries.next().unwrap(), Some(Member::File { path: long, length: 600 }));
        let at = usize::try_from(entries.position()).unwrap();
        assert_eq!(bytes[at..at + 600], [7; 600]);
        assert_eq!(entries.next().unwrap(), Some(Member::File { path: "pax/named".to_owned(), length: 2 }));
        let mut content = String::new();
        entries.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hi");
        let link = Member::Link { path: "a/b".to_owned(), target: "../c".to_owned(), symbolic: true };
        assert_eq!(entries.next().unwrap(), Some(link));
        assert_eq!(entries.next().unwrap(), None);
    }

    #[test]
    fn an_archive_cut_anywhere_but_at_an_entry_is_an_error() {
        let bytes = archive();
        for length in [1, 511, 513, 1024, 1600, 2000] {
            let mut entries = Entries::new(&bytes[..length], skip);
            let outcome = std::iter::from_fn(|| entries.next().transpose()).find_map(Result::err);
            assert!(outcome.is_some(), "cut at {length}");
        }
    }

    #[test]
    fn names_stay_within_the_archive() {
        assert_eq!(within("", "./a//b/./c/"), Some("a/b/c".to_owned()));
        assert_eq!(within("a/b", "../c/layer.tar"), Some("a/c/layer.tar".to_owned()));
        assert_eq!(within("", "../etc/passwd"), None);
        assert_eq!(within("a", "../../etc/passwd"), None);
        assert_eq!(within("a", "/etc//passwd"), Some("etc/passwd".to_owned()));
        assert_eq!(within("a", "/../etc/passwd"), None);
    }
}
