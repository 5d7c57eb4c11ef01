//! The list of what a machine has written to its root, as the tool `changes` prints it.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The path is not in the lower tree.
    Added,
    /// The path is in both trees.
    Changed,
    /// The path is in the lower tree but no longer visible.
    Deleted,
}

impl Kind {
    /// Returns the letter for it: `A`, `C` or `D`.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::Added => b'A',
            Self::Changed => b'C',
            Self::Deleted => b'D',
        }
    }
}

/// Writes one entry: the letter, a slash, the path (which has no leading slash) and a NUL byte.
///
/// # Errors
/// The writer failed.
pub fn write_entry(mut out: impl Write, kind: Kind, path: &Path) -> io::Result<()> {
    out.write_all(&[kind.letter(), b'/'])?;
    out.write_all(path.as_os_str().as_bytes())?;
    out.write_all(&[0])
}

/// The longest entry of a list in bytes. A path may be longer than `PATH_MAX`, but no program reaches it then.
const LONGEST: u64 = 64 << 10;

/// Parses a list of entries, one at a time.
#[derive(Debug)]
pub struct ChangeList<R>(R);

impl<R: BufRead> ChangeList<R> {
    /// Parses what `list` reads.
    pub const fn new(list: R) -> Self {
        Self(list)
    }

    /// Returns the letter and the absolute path of the next entry, or `None` at the end.
    ///
    /// # Errors
    /// The reader's error, `InvalidData` for an entry that is too long, or `UnexpectedEof` for one that is cut short.
    pub fn next_entry(&mut self) -> io::Result<Option<(char, PathBuf)>> {
        let mut entry = Vec::new();
        if (&mut self.0).take(LONGEST).read_until(0, &mut entry)? == 0 {
            return Ok(None);
        }
        match (entry.pop(), entry.split_first()) {
            (Some(0), Some((&letter, path))) => {
                Ok(Some((char::from(letter), PathBuf::from(OsString::from_vec(path.to_vec())))))
            }
            (Some(0), None) => Err(io::Error::new(io::ErrorKind::InvalidData, "an entry of the list is empty")),
            _ if entry.len() as u64 + 1 >= LONGEST => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "an entry of the list is too long"))
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_any_bytes_survive_the_list() {
        let mut list = Vec::new();
        let odd = OsString::from_vec(b"a\nb/\xff".to_vec());
        write_entry(&mut list, Kind::Added, Path::new(&odd)).unwrap();
        write_entry(&mut list, Kind::Deleted, Path::new("c")).unwrap();
        let absolute = Path::new("/").join(&odd);
        let mut parsed = ChangeList::new(list.as_slice());
        let mut next = || parsed.next_entry().unwrap();
        assert_eq!([next(), next(), next()], [Some(('A', absolute)), Some(('D', PathBuf::from("/c"))), None]);
    }

    #[test]
    fn an_entry_that_is_too_long_or_cut_short_is_an_error() {
        for (list, kind) in [
            (vec![b'A'; 1 << 20], io::ErrorKind::InvalidData),
            (b"A/x".to_vec(), io::ErrorKind::UnexpectedEof),
            (vec![0], io::ErrorKind::InvalidData),
        ] {
            assert_eq!(ChangeList::new(list.as_slice()).next_entry().unwrap_err().kind(), kind);
        }
    }
}
