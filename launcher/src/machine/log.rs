//! `output.log`: the output of the command of a machine without a terminal.
//!
//! The format is that of the Kubernetes container runtime interface, which log collectors know: a line for each line of
//! the output, `<time> <stream> <tag> <bytes>`, with the time as RFC 3339 with nanoseconds in UTC, the stream `stdout`
//! or `stderr`, and the tag `F`, or `P` for a part of a line whose rest follows.
//!
//! Its size is bounded: see [`crate::host::bounded_log`]. A file of the log ends where lines end, unless an eighth of it is
//! written without a place where no line is unfinished.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use guest_protocol::Channel;

use super::stdio::{Output, Stdio};
use crate::failure::{About, Failure};
use crate::host::bounded_log::BoundedLog;

/// The file's name in the machine's directory.
pub(crate) const FILE: &str = "output.log";

/// The longest part of a line in one entry, in bytes.
const PIECE: usize = 8 << 10;

/// Writes the log. If the disk is full, output is lost and the command continues.
#[derive(Debug)]
pub(crate) struct Writer {
    file: BoundedLog,
    /// The last write failed, perhaps within a line.
    torn: bool,
    /// Whether the last line of standard output is unfinished, and that of standard error.
    unfinished: [bool; 2],
}

impl Writer {
    /// Opens the log at `path` for appending, and creates it if it is missing. It has at most `size` bytes.
    pub(crate) fn open(path: &Path, size: u64) -> io::Result<Self> {
        BoundedLog::open(path, size).map(|file| Self { file, torn: false, unfinished: [false; 2] })
    }

    fn write(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        let time = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Nanos, true);
        let stream = if channel == Channel::Stderr { "stderr" } else { "stdout" };
        let mut text = Vec::with_capacity(2 * PIECE);
        if self.torn {
            text.push(b'\n');
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(PIECE)) {
            let tag = if piece.ends_with(b"\n") { "F" } else { "P" };
            text.extend(format!("{time} {stream} {tag} ").into_bytes());
            text.extend(piece);
            if tag == "P" {
                text.push(b'\n');
            }
            self.unfinished[usize::from(channel == Channel::Stderr)] = tag == "P";
            // Otherwise a line would be continued in the next file, and its beginning be discarded before its end.
            let ends = self.unfinished == [false; 2] && self.file.is_nearly_full(text.len());
            // A line of one byte becomes 45 bytes, and no more than this is held or written at once.
            if ends || text.len() >= PIECE {
                self.file.write_all(&text)?;
                text.clear();
            }
            if ends {
                self.file.complete();
            }
        }
        self.file.write_all(&text)
    }
}

/// Returns the log at `path`, which has at most `size` bytes, as the output of a process without input.
///
/// # Errors
/// It cannot be written.
pub(crate) fn stdio(path: &Path, size: u64) -> Result<Stdio, Failure> {
    Ok(Stdio::output(Writer::open(path, size).about(path.display())?))
}

impl Output for Writer {
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        let written = self.write(channel, bytes);
        match &written {
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                if !self.torn {
                    tracing::warn!("output is lost from here on: {FILE}: {error}");
                }
                self.torn = true;
                Ok(())
            }
            _ => {
                self.torn = false;
                written
            }
        }
    }
}

/// The parts of one line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry<'log> {
    /// When it was written.
    pub(crate) time: &'log str,
    /// Whether it went to standard error.
    pub(crate) error: bool,
    /// Whether its line ends here.
    pub(crate) whole: bool,
    /// What was written, without the end of the line.
    pub(crate) bytes: &'log [u8],
}

impl<'log> LogEntry<'log> {
    /// Parses a line, without its line end. Returns `None` if it is damaged.
    #[must_use]
    pub(crate) fn parse(line: &'log [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |&byte| byte == b' ');
        let time = std::str::from_utf8(words.next()?).ok()?;
        let error = match words.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let whole = match words.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, error, whole, bytes: words.next()? })
    }

    /// Writes the bytes of the entry, with the end of its line.
    ///
    /// # Errors
    /// The writer's error.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(self.bytes)?;
        if self.whole { to.write_all(b"\n") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_byte_for_byte_and_by_stream() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut writer = Writer::open(&path, 1 << 20).unwrap();
        let chunks: [(Channel, &[u8]); 5] = [
            (Channel::Stdout, b"one\ntw"),
            (Channel::Stderr, b"oops\n"),
            (Channel::Stdout, b"o\n\n"),
            (Channel::Stdout, b"\xff\x00 x  "),
            (Channel::Stderr, b"\n"),
        ];
        for (channel, bytes) in chunks {
            writer.take(channel, bytes).unwrap();
        }
        let log = std::fs::read(&path).unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for line in log.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n') {
            let entry = LogEntry::parse(line).unwrap();
            assert!(entry.time.ends_with('Z') && entry.time.len() == 30, "{}", entry.time);
            entry.write(if entry.error { &mut stderr } else { &mut stdout }).unwrap();
        }
        assert_eq!(stdout, b"one\ntwo\n\n\xff\x00 x  ");
        assert_eq!(stderr, b"oops\n\n");
    }

    #[test]
    fn a_log_that_is_full_of_short_lines_stays_within_its_size_and_has_whole_entries() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut writer = Writer::open(&path, 64 << 10).unwrap();
        for bytes in [vec![b'\n'; 64 << 10], vec![b'x'; 64 << 10], b"end\n".to_vec()] {
            writer.take(Channel::Stdout, &bytes).unwrap();
        }
        let older = crate::host::bounded_log::older(&path);
        for path in [older, path] {
            let log = std::fs::read(&path).unwrap();
            assert!(log.len() <= 32 << 10, "{}", log.len());
            let lines = log.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n');
            assert!(lines.clone().all(|line| LogEntry::parse(line).is_some()));
        }
    }

    #[test]
    fn a_file_of_a_log_begins_with_a_whole_line_wherever_the_output_is_cut() {
        for chunk in [7, 1000, 4096, 65536] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE);
            let mut writer = Writer::open(&path, 256 << 10).unwrap();
            let output: String =
                (0..40_000).map(|number| format!("{number:0width$}\n", width = 1 + number % 100)).collect();
            for bytes in output.as_bytes().chunks(chunk) {
                writer.take(Channel::Stdout, bytes).unwrap();
            }
            let mut kept = Vec::new();
            for path in [crate::host::bounded_log::older(&path), path] {
                let log = std::fs::read(&path).unwrap();
                assert!(log.len() <= 128 << 10, "{}", log.len());
                log.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n').for_each(|line| {
                    LogEntry::parse(line).unwrap().write(&mut kept).unwrap();
                });
            }
            let discarded = output.strip_suffix(std::str::from_utf8(&kept).unwrap()).expect("the end of the output");
            assert!(kept.len() > 10_000 && discarded.ends_with('\n'), "chunks of {chunk} bytes");
        }
    }

    /// The write that begins a file must not end it, too: the next file would replace the one before it.
    #[test]
    fn a_log_keeps_at_least_a_third_of_its_size_whatever_its_lines_are() {
        for longest in [1, 100, 8191] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE);
            let mut writer = Writer::open(&path, 64 << 10).unwrap();
            for number in 0..2000 {
                writer.take(Channel::Stdout, &[vec![b'x'; number % 2 * longest], b"\n".to_vec()].concat()).unwrap();
                let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
                let older = crate::host::bounded_log::older(&path);
                assert!(!older.exists() || size(&older) + size(&path) > 21 << 10, "lines of {longest} bytes");
            }
        }
    }

    #[test]
    fn a_damaged_line_is_no_entry() {
        for line in ["", "time", "time stdout F", "time other F x", "time stdout X x"] {
            assert_eq!(LogEntry::parse(line.as_bytes()), None, "{line}");
        }
    }
}
