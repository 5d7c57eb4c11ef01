//! The list of what a machine has written to its root, as printed by the tool `changes`.

use std::ffi::OsString;
use std::io::{self, Write};
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

/// Parses a list of entries into the letter and the absolute path of each.
#[must_use]
pub fn parse_list(bytes: &[u8]) -> Vec<(char, PathBuf)> {
    let records = bytes.split(|&byte| byte == 0).filter(|record| !record.is_empty());
    records
        .filter_map(|record| record.split_first())
        .map(|(&letter, path)| (char::from(letter), PathBuf::from(OsString::from_vec(path.to_vec()))))
        .collect()
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
        assert_eq!(parse_list(&list), [('A', absolute), ('D', PathBuf::from("/c"))]);
    }
}
