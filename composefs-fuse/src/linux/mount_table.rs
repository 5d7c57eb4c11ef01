//! What is mounted where. Nothing here sends a message to a FUSE server, which may be stuck or dead.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Returns the type of the topmost mount whose root is at `path`, or nothing if no mount has its root there. `path` must
/// be absolute and without symbolic links.
pub(super) fn mounted_type(path: &Path) -> io::Result<Option<String>> {
    with_line(path, |line| line.kind.to_owned())
}

/// Returns the user whose FUSE mount has its root at `path`, if one has.
pub(super) fn mounted_by(path: &Path) -> io::Result<Option<u32>> {
    Ok(with_line(path, |line| user_of(line.options))?.flatten())
}

/// Returns the number of the FUSE connection of the mount at `path`, which no other live mount of this kernel has.
pub(super) fn connection_number(path: &Path) -> io::Result<u32> {
    // fs/fuse/dir.c: with AT_STATX_DONT_SYNC the kernel answers from its cache.
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok(found.stx_dev_minor)
}

/// Calls `look` with the line of the topmost mount whose root is at `path`.
fn with_line<T>(path: &Path, look: impl FnOnce(&Line<'_>) -> T) -> io::Result<Option<T>> {
    // This open neither asks the server of a FUSE mount, nor is it refused in another user's.
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let opened = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    // An open root would keep the mount busy.
    drop(opened);
    let number = facts.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let table = std::fs::read("/proc/self/mountinfo")?;
    let path = path.as_os_str().as_encoded_bytes();
    let found = table.split(|byte| *byte == b'\n').filter_map(Line::parse).find(|line| Some(line.number) == number);
    Ok(found.filter(|line| unescaped(line.place) == path).map(|line| look(&line)))
}

/// The parts of a line of `/proc/self/mountinfo` that are used here.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    number: &'a str,
    /// Where it is mounted, with octal escapes.
    place: &'a [u8],
    kind: &'a str,
    /// The options of the file system, which are those of all its mounts.
    options: &'a str,
}

impl<'a> Line<'a> {
    /// The mount's number is the first word and its place the fifth. After a lone `-` follow its type, its source and
    /// the options of the file system (proc(5)).
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let (number, place) = (words.next()?, words.nth(3)?);
        let mut words = words.skip_while(|word| *word != b"-").skip(1);
        let (kind, options) = (words.next()?, words.nth(1)?);
        let text = |word| std::str::from_utf8(word).ok();
        Some(Self { number: text(number)?, place, kind: text(kind)?, options: text(options)? })
    }
}

/// Returns the user that a FUSE file system with these options belongs to.
fn user_of(options: &str) -> Option<u32> {
    options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
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
        let expected =
            Line { number: "36", place: br"/mnt\0402", kind: "fuse.lamina", options: "ro,user_id=7,group_id=0" };
        let plain = br"36 35 0:98 / /mnt\0402 ro,nosuid - fuse.lamina - ro,user_id=7,group_id=0";
        let shared = br"36 35 0:98 / /mnt\0402 ro,nosuid master:1 shared:2 - fuse.lamina - ro,user_id=7,group_id=0";
        assert_eq!(Line::parse(plain), Some(Line { ..expected }));
        assert_eq!(Line::parse(shared), Some(expected));
        assert_eq!(user_of("ro,user_id=7,group_id=0"), Some(7));
        assert_eq!(user_of("rw"), None);
        assert_eq!(Line::parse(b""), None);
    }

    #[test]
    fn escapes_in_places_are_resolved() {
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
