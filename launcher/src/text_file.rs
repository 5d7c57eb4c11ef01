//! Text files that people write by hand, with whatever editor they have.

use std::fs;
use std::io;
use std::path::Path;

/// Reads a text file as UTF-8, or as UTF-16 if it starts with that byte order mark. The mark itself is removed.
///
/// # Errors
/// The file cannot be read, or is not text in either encoding (`InvalidData`).
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let text = match bytes.as_slice() {
        [0xff, 0xfe, units @ ..] => utf16(units, u16::from_le_bytes),
        [0xfe, 0xff, units @ ..] => utf16(units, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] | text => String::from_utf8(text.to_vec()).ok(),
    };
    text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Returns the lines of `text`. A line ends with a line feed, with or without a carriage return before it, or at the
/// end of the file.
#[cfg(target_os = "linux")]
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|&bytes| unit(bytes)).collect();
    String::from_utf16(&units).ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_editor_have_the_same_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let encoded = |mark: u16, unit: fn(u16) -> [u8; 2]| {
            std::iter::once(mark).chain("A=ü\r\nB=2".encode_utf16()).flat_map(unit).collect::<Vec<u8>>()
        };
        for bytes in [
            b"A=\xc3\xbc\nB=2\n".to_vec(),
            b"A=\xc3\xbc\r\nB=2\r\n".to_vec(),
            b"A=\xc3\xbc\nB=2".to_vec(),
            b"A=\xc3\xbc\r\nB=2\r".to_vec(),
            b"\xef\xbb\xbfA=\xc3\xbc\nB=2\n".to_vec(),
            encoded(0xfeff, u16::to_le_bytes),
            encoded(0xfeff, u16::to_be_bytes),
        ] {
            fs::write(file.path(), &bytes).unwrap();
            let text = read(file.path()).unwrap();
            assert_eq!(lines(&text).collect::<Vec<_>>(), ["A=ü", "B=2"], "{bytes:?}");
        }
        for bytes in [b"A=\xff\n".as_slice(), b"\xff\xfeA", b"\xff\xfe\x00\xd8"] {
            fs::write(file.path(), bytes).unwrap();
            assert_eq!(read(file.path()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
