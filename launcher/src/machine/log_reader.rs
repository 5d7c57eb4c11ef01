//! Reads the files of a log in order, even while it is being written.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::bounded_log::older;

/// How long to wait, at each of a few attempts, for a log that is being rotated.
const MOVED_ON: Duration = Duration::from_millis(1);

/// The lines of a log (see [`crate::host::bounded_log`]).
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    current: BufReader<File>,
    /// The files after it.
    next: VecDeque<File>,
    /// Bytes of the current file that have been read.
    position: u64,
}

impl LogReader {
    /// The longest piece of a line in bytes. No entry of `output.log` is longer.
    pub(crate) const LONGEST: usize = 64 << 10;

    /// Opens the log at `path`.
    ///
    /// # Errors
    /// It does not exist or cannot be read.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let (mut next, mut attempts) = (VecDeque::new(), 100);
        loop {
            let newer = match File::open(path) {
                // The log is being rotated: for a moment there is no file.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts > 0 && older(path).exists() => {
                    attempts -= 1;
                    std::thread::sleep(MOVED_ON);
                    continue;
                }
                newer => newer?,
            };
            match File::open(older(path)) {
                // The log was rotated in between.
                Ok(before) if inode(&before)? == inode(&newer)? => continue,
                Ok(before) => next.extend([before, newer]),
                Err(error) if error.kind() == io::ErrorKind::NotFound => next.push_back(newer),
                Err(error) => return Err(error),
            }
            break;
        }
        let first = next.pop_front().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { path: path.to_owned(), current: BufReader::new(first), next, position: 0 })
    }

    /// Adds the next line to `line`, with its end, or a piece of it if it is very long or its end has not been written.
    /// Returns `false` if there is no more for now.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let before = line.len();
            while line.len() < Self::LONGEST && !line.ends_with(b"\n") {
                let there = self.current.fill_buf()?;
                if there.is_empty() {
                    break;
                }
                let wanted = &there[..there.len().min(Self::LONGEST - line.len())];
                let end = wanted.iter().position(|&byte| byte == b'\n').map_or(wanted.len(), |end| end + 1);
                line.extend(&wanted[..end]);
                self.current.consume(end);
                self.position += end as u64;
            }
            if line.len() > before {
                return Ok(true);
            }
            if !self.go_on()? {
                return Ok(false);
            }
        }
    }

    /// Goes to what follows the end of the current file. Returns `false` if nothing does.
    fn go_on(&mut self) -> io::Result<bool> {
        if let Some(next) = self.next.pop_front() {
            (self.current, self.position) = (BufReader::new(next), 0);
            return Ok(true);
        }
        let ours = self.current.get_ref().metadata()?;
        if ours.len() < self.position {
            // Its content has been moved to the older file.
            self.current.rewind()?;
            self.position = 0;
            return Ok(true);
        }
        let of = |path: &Path| fs::metadata(path).map(|file| file.ino()).ok();
        if of(&self.path).is_none_or(|inode| inode == ours.ino()) {
            return Ok(false);
        }
        // It has been moved. More may have been written to it before that.
        if ours.len() > self.position {
            return Ok(true);
        }
        if of(&older(&self.path)) != Some(ours.ino()) {
            // Moved more than once: of what was written since then, only two files are left.
            self.next.extend(File::open(older(&self.path)));
        }
        self.next.extend(File::open(&self.path));
        self.go_on()
    }
}

fn inode(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::host::bounded_log::{self, BoundedLog};

    fn lines(reader: &mut LogReader) -> Vec<usize> {
        let (mut found, mut line) = (Vec::new(), Vec::new());
        while reader.read(&mut line).unwrap() {
            assert!(line.ends_with(b"\n"));
            found.push(std::str::from_utf8(&line).unwrap().trim_end().parse().unwrap());
            line.clear();
        }
        found
    }

    #[test]
    fn every_line_is_read_once_and_in_order_while_the_log_moves_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::create(&path, 1000).unwrap();
        let mut next = 0;
        let mut write = |count: usize| {
            (0..count).for_each(|_| {
                log.write_all(format!("{next:09}\n").as_bytes()).unwrap();
                next += 1;
            });
            next
        };
        write(70);
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(lines(&mut reader), (0..70).collect::<Vec<_>>(), "both files");
        let mut seen = 70;
        for count in [0, 1, 29, 30, 50, 49, 51, 2] {
            let end = write(count);
            assert_eq!(lines(&mut reader), (seen..end).collect::<Vec<_>>());
            seen = end;
        }
        // What has been discarded is left out.
        let end = write(1000);
        let rest = lines(&mut reader);
        assert!(rest.len() > 50 && rest.len() <= 150 && *rest.last().unwrap() == end - 1, "{}", rest.len());
    }

    #[test]
    fn a_log_that_is_bounded_in_place_and_a_line_without_end_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "1\n2\n").unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(lines(&mut reader), [1, 2]);
        bounded_log::bound(&path, 4).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"3\n").unwrap();
        assert_eq!(lines(&mut reader), [3]);
        fs::write(&path, vec![b'x'; 200 << 10]).unwrap();
        fs::remove_file(older(&path)).unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        let (mut line, mut lengths) = (Vec::new(), Vec::new());
        while reader.read(&mut line).unwrap() {
            lengths.push(std::mem::take(&mut line).len());
        }
        assert_eq!(lengths.iter().sum::<usize>(), 200 << 10);
        assert!(lengths.iter().all(|&length| length <= LogReader::LONGEST));
    }
}
