//! Log files of a bounded size, and their ends.
//!
//! A log is one or two files: `NAME`, and `NAME.1` with what was written before. When `NAME` has half of the log's size,
//! it replaces `NAME.1`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The size of a log for which no other size is set, in bytes.
pub(crate) const OWN_SIZE: u64 = 1 << 20;

/// Writes a log, and discards the oldest part of it when it would become too large.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    path: PathBuf,
    file: File,
    /// The bytes in `file`.
    written: u64,
    /// The most bytes in one file.
    half: u64,
    /// Whether the next bytes go to a new file.
    is_complete: bool,
}

impl BoundedLog {
    /// Opens the log at `path` for appending, and creates it if it is missing. Its files have at most `size` bytes
    /// together.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let file = append_to(path)?;
        let written = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written, half: size / 2, is_complete: false })
    }

    /// Returns whether little room is left in the file after `more` bytes, so that it should end at the next line end.
    pub(crate) const fn is_nearly_full(&self, more: usize) -> bool {
        !self.is_complete && self.written.saturating_add(more as u64) > self.half - self.half / 8
    }

    /// Ends the file here if it is nearly full: what is written next goes to a new one.
    pub(crate) const fn complete(&mut self) {
        self.is_complete = self.is_nearly_full(0);
    }

    /// The same, without what an earlier run has left.
    ///
    /// # Errors
    /// As for [`BoundedLog::open`].
    pub(crate) fn create(path: &Path, size: u64) -> io::Result<Self> {
        for old in [path, &older(path)] {
            match fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Self::open(path, size)
    }
}

impl Write for BoundedLog {
    /// Writes all of `bytes` to the same file. They must be far fewer than the size of the log.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if self.written > 0 && (self.is_complete || after > self.half) {
            fs::rename(&self.path, older(&self.path))?;
            self.file = append_to(&self.path)?;
            self.written = 0;
            self.is_complete = false;
        }
        let done = self.file.write_all(bytes);
        // Counted even if it failed: a part of it may be in the file.
        self.written = self.written.saturating_add(bytes.len() as u64);
        done.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Returns the file with what was written before the content of `path`.
#[must_use]
pub(crate) fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Bounds a log that another file descriptor appends to (`O_APPEND`): if it has half of `size`, its content becomes its
/// older part. What is written in the meantime may be lost.
pub(crate) fn bound(path: &Path, size: u64) -> io::Result<()> {
    let half = size / 2;
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length < half {
        return Ok(());
    }
    file.seek(SeekFrom::Start(length - half))?;
    io::copy(&mut file.try_clone()?.take(half), &mut File::create(older(path))?)?;
    file.set_len(0)
}

/// How much of the end of a log is read for its last lines.
const TAIL: u64 = 64 << 10;

/// The longest line that [`tail`] returns, in characters.
const LONGEST: usize = 1000;

/// Returns the last `lines` of a log, or nothing if there is no such file. Reads the end of the log only, and leaves out
/// the ends of long lines.
#[must_use]
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let mut bytes = end_of(path);
    if bytes.iter().filter(|&&byte| byte == b'\n').count() < lines && (bytes.len() as u64) < TAIL {
        bytes = [end_of(&older(path)), bytes].concat();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let cut = |line: &&str| line.chars().take(LONGEST).collect::<String>();
    all[all.len().saturating_sub(lines)..].iter().map(cut).collect::<Vec<_>>().join("\n")
}

fn end_of(path: &Path) -> Vec<u8> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_log_never_have_more_than_its_size_and_hold_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let mut log = BoundedLog::create(&path, 1000).unwrap();
        for number in 0..1000 {
            log.write_all(format!("{number:09}\n").as_bytes()).unwrap();
            assert!(size(&path) <= 500 && size(&older(&path)) <= 500);
        }
        let all = fs::read_to_string(older(&path)).unwrap() + &fs::read_to_string(&path).unwrap();
        assert!(all.len() > 500 && all.ends_with("000000999\n"), "{all}");
        let first: usize = all.lines().next().unwrap().parse().unwrap();
        assert!(
            (first..1000).eq(all.lines().map(|line| line.parse::<usize>().unwrap())),
            "nothing is missing in between"
        );
        // The next run continues it.
        let mut log = BoundedLog::open(&path, 1000).unwrap();
        (0..100).for_each(|_| log.write_all(b"again\n").unwrap());
        assert!(size(&path) <= 500 && size(&older(&path)) <= 500);
        BoundedLog::create(&path, 1000).unwrap();
        assert_eq!((size(&path), older(&path).exists()), (0, false));
    }

    #[test]
    fn a_log_that_others_append_to_is_bounded_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut other = append_to(&path).unwrap();
        for number in 0..500 {
            other.write_all(format!("{number:09}\n").as_bytes()).unwrap();
            bound(&path, 1000).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 500);
        }
        assert_eq!(tail(&path, 2), "000000498\n000000499");
        assert!(bound(&directory.path().join("none"), 10).is_err());
    }

    #[test]
    fn the_tail_is_the_last_lines_wherever_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail(Path::new("/nonexistent"), 2), "");
        fs::write(older(&path), "x\ny\nz\n").unwrap();
        assert_eq!(tail(&path, 4), "z\na\nb\nc");
        fs::write(&path, format!("{}\nlast\n", "é".repeat(1 << 20))).unwrap();
        let tail = tail(&path, 2);
        assert!(tail.ends_with("\nlast") && tail.chars().count() == LONGEST + 5, "{}", tail.len());
    }
}
