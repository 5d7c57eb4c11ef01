//! The kernel's console: a pipe that the hypervisor writes to, and the log that its content goes to.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};

use super::event::Event;
use crate::failure::{About, Failure};
use crate::host::bounded_log::{self, BoundedLog};
use crate::host::drain::drain;
use crate::print;

/// The log's name in the machine's directory.
pub(crate) const FILE: &str = "console.log";

/// The name of the pipe in the directory of sockets.
pub(crate) const PIPE: &str = "console.pipe";

/// The beginning of the line that the kernel prints when it panics (`kernel/panic.c`).
pub(crate) const PANIC: &str = "Kernel panic - not syncing: ";

/// The longest line, in bytes, whose end is waited for.
const LONGEST_LINE: usize = 4096;

/// How long the last lines may take to be written. Standard error may be a pipe that no process reads.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A console that is being read.
#[derive(Debug)]
pub(crate) struct Console {
    log: PathBuf,
    /// Becomes readable when the engine has ended.
    ended: OwnedFd,
    done: Receiver<()>,
}

impl Console {
    /// Creates the pipe, and reads it in a separate thread: copies it to the log, which has at most `size` bytes, and to
    /// standard error if `show` is set, and reports a panic of the kernel. Everything else the guest reports over the
    /// control channel.
    ///
    /// A pipe, and not a file, because a hypervisor that writes faster than this process reads then waits.
    ///
    /// # Errors
    /// The pipe or the log cannot be created.
    pub(crate) fn open(
        pipe: &Path,
        log: PathBuf,
        size: u64,
        show: bool,
        events: Sender<Event>,
    ) -> Result<Self, Failure> {
        let _ = fs::remove_file(pipe);
        rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .about(pipe.display())?;
        // For writing too, so that the pipe has no end before the engine opens it.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let source =
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(pipe).about(pipe.display())?;
        let target = BoundedLog::create(&log, size).about(log.display())?;
        let ended = eventfd(0, EventfdFlags::CLOEXEC).about("eventfd")?;
        let (watched, (finished, done)) = (ended.try_clone().about("eventfd")?, channel());
        thread::spawn(move || {
            let mut reader = Reader { log: target, show, events: Some(events), lines: Lines::default() };
            drain(&source, watched.as_fd(), |piece| reader.take(piece));
            let _ = finished.send(());
        });
        Ok(Self { log, ended, done })
    }

    /// Waits until what is in the pipe is in the log. The engine must have ended.
    pub(crate) fn finish(&self) {
        if rustix::io::write(&self.ended, &1_u64.to_le_bytes()).is_ok() {
            let _ = self.done.recv_timeout(LAST_LINES);
        }
    }

    /// Returns the last lines.
    #[must_use]
    pub(crate) fn tail(&self, lines: usize) -> String {
        bounded_log::tail(&self.log, lines)
    }

    /// Prints the last lines.
    pub(crate) fn print_tail(&self) {
        let tail = self.tail(15);
        if !tail.is_empty() {
            print::message_lines(&format!("--- last lines of the guest's console ---\n{tail}\n---"));
        }
    }
}

struct Reader {
    log: BoundedLog,
    show: bool,
    /// Where a panic is reported, once.
    events: Option<Sender<Event>>,
    lines: Lines,
}

impl Reader {
    #[expect(clippy::disallowed_methods, reason = "the console is asked for as the guest writes it")]
    fn take(&mut self, piece: &[u8]) {
        // If the disk is full, the console is lost and the guest goes on.
        let _ = self.log.write_all(piece);
        if self.show {
            let _ = io::stderr().write_all(piece);
        }
        if self.lines.take(piece)
            && let Some(events) = self.events.take()
        {
            let _ = events.send(Event::Panicked);
        }
    }
}

/// Splits a stream that arrives in pieces into lines.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
}

impl Lines {
    /// Returns whether a line that ends in this piece says that the kernel panics.
    fn take(&mut self, piece: &[u8]) -> bool {
        let mut told = false;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            for part in part.chunks(LONGEST_LINE) {
                self.begun.extend(part);
                if part.ends_with(b"\n") || self.begun.len() > LONGEST_LINE {
                    told |= String::from_utf8_lossy(&std::mem::take(&mut self.begun)).contains(PANIC);
                }
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_wherever_the_pieces_are_cut() {
        let text = b"[    1.5] Kernel panic - not syncing: Attempted to kill init!\r\n[    1.6] CPU: 0\r\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let told = [&text[..cut], &text[cut..]].into_iter().filter(|piece| lines.take(piece)).count();
            assert_eq!(told, 1, "cut at {cut}");
        }
        let mut lines = Lines::default();
        assert!(!lines.take(b"Kernel panic - not\nsyncing: \n"));
        assert!(!lines.take(&[b'x'; 3 * LONGEST_LINE]) && lines.begun.len() <= LONGEST_LINE);
    }

    #[test]
    fn a_console_that_never_ends_is_read_into_a_bounded_log_and_reports_a_panic_once() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, log) = (directory.path().join(PIPE), directory.path().join(FILE));
        let (events, inbox) = channel();
        let console = Console::open(&pipe, log.clone(), 64 << 10, false, events).unwrap();
        let mut guest = OpenOptions::new().write(true).truncate(true).open(&pipe).unwrap();
        let line = format!("{PANIC}{}\n", "x".repeat(2000));
        for _ in 0..1000 {
            guest.write_all(line.as_bytes()).unwrap();
        }
        guest.write_all(b"the end\n").unwrap();
        console.finish();
        assert!(console.tail(1).ends_with("the end"));
        assert!([&log, &bounded_log::older(&log)].iter().all(|path| fs::metadata(path).unwrap().len() <= 32 << 10));
        assert_eq!(inbox.iter().count(), 1);
    }
}
