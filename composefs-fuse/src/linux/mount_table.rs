//! What is mounted where, as the kernel tells it without a message to any server: a dead one holds nothing up.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The type of the mount that is to be seen at `path`, which is absolute and without symbolic links; nothing if no mount has
/// its root there. Of several on top of each other it is the topmost.
pub(super) fn mounted_type(path: &Path) -> io::Result<Option<String>> {
    // Neither asks the server of a FUSE mount, nor is refused in that of another user.
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let opened = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    // Before anything is unmounted: it would be busy.
    drop(opened);
    let number = facts.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let table = std::fs::read("/proc/self/mountinfo")?;
    let path = path.as_os_str().as_encoded_bytes();
    let found = table.split(|byte| *byte == b'\n').filter_map(Line::parse).find(|line| Some(line.number) == number);
    Ok(found.filter(|line| unescaped(line.place) == path).map(|line| line.kind.to_owned()))
}

/// What matters here of one line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    number: &'a str,
    /// Where it is mounted, with octal escapes.
    place: &'a [u8],
    kind: &'a str,
}

impl<'a> Line<'a> {
    /// The mount's number is the first word, its place the fifth, and its type the first behind a lone `-` (proc(5)).
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let (number, place) = (words.next()?, words.nth(3)?);
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        Some(Self { number: std::str::from_utf8(number).ok()?, place, kind: std::str::from_utf8(kind).ok()? })
    }
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and the like.
fn unescaped(mut place: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(place.len());
    while let Some((first, rest)) = place.split_first() {
        let digits = rest.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                place = rest.get(3..).unwrap_or_default();
            }
            None => {
                path.push(*first);
                place = rest;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_and_without_optional_words() {
        let expected = Line { number: "36", place: br"/mnt\0402", kind: "fuse.lamina" };
        let plain = br"36 35 0:98 / /mnt\0402 ro,nosuid - fuse.lamina - ro,user_id=0";
        let shared = br"36 35 0:98 / /mnt\0402 ro,nosuid master:1 shared:2 - fuse.lamina - ro,user_id=0";
        assert_eq!(Line::parse(plain), Some(Line { ..expected }));
        assert_eq!(Line::parse(shared), Some(expected));
        assert_eq!(Line::parse(b""), None);
    }

    #[test]
    fn places_are_told_as_they_are_named() {
        assert_eq!(unescaped(br"/a\040b\134c\012"), b"/a b\\c\n");
        assert_eq!(unescaped(br"/a\04"), br"/a\04");
        assert_eq!(unescaped(b"/\xFF"), b"/\xFF");
    }

    #[test]
    fn only_the_root_of_a_mount_has_a_type() {
        assert_eq!(mounted_type(Path::new("/proc")).unwrap().as_deref(), Some("proc"));
        assert_eq!(mounted_type(Path::new("/proc/self")).unwrap(), None);
        assert_eq!(mounted_type(Path::new("/proc/nothing")).unwrap(), None);
    }
}
