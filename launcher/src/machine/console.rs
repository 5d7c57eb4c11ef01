//! The kernel's console: a file that the hypervisor writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;

use super::event::Event;
use super::file_watch::FileWatch;
use crate::failure::{About, Failure};
use crate::host::child;
use crate::print;

/// The beginning of the line that the kernel prints when it panics (`kernel/panic.c`).
pub(crate) const PANIC: &str = "Kernel panic - not syncing: ";

/// The longest line, in bytes, whose end is waited for.
const LONGEST_LINE: usize = 4096;

/// Truncates the console's file and reads it as it grows, for as long as this process runs: copies it to standard error
/// if `show` is set, and reports a panic of the kernel. Everything else the guest reports over the control channel.
///
/// # Errors
/// The file cannot be created or watched.
pub(crate) fn watch(path: &Path, show: bool, events: Sender<Event>) -> Result<(), Failure> {
    let about = || path.display().to_string();
    drop(File::create(path).about(about())?);
    let mut file = File::open(path).about(about())?;
    let growth = FileWatch::of(path).about(about())?;
    #[expect(clippy::disallowed_methods, reason = "the console is asked for as the guest writes it")]
    thread::spawn(move || {
        let mut lines = Lines::default();
        let mut buffer = vec![0; 8192];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => growth.wait(None, None),
                Ok(count) => {
                    if show {
                        let _ = io::stderr().write_all(&buffer[..count]);
                    }
                    if lines.take(&buffer[..count]).into_iter().any(|event| events.send(event).is_err()) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    Ok(())
}

/// Splits a stream that arrives in pieces into lines.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
}

impl Lines {
    /// Returns the events of the lines that end in this piece.
    fn take(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut told = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend(part);
            if part.ends_with(b"\n") || self.begun.len() > LONGEST_LINE {
                told.extend(tells(&String::from_utf8_lossy(&std::mem::take(&mut self.begun))));
            }
        }
        told
    }
}

fn tells(line: &str) -> Option<Event> {
    line.contains(PANIC).then_some(Event::Panicked)
}

/// Prints the end of the console.
pub(crate) fn print_tail(path: &Path) {
    let tail = child::tail(path, 15);
    if !tail.is_empty() {
        print::message_lines(&format!("--- last lines of the guest's console ---\n{tail}\n---"));
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
            let told: Vec<Event> =
                [&text[..cut], &text[cut..]].into_iter().flat_map(|piece| lines.take(piece)).collect();
            assert!(matches!(told[..], [Event::Panicked]), "cut at {cut}: {told:?}");
        }
        let mut lines = Lines::default();
        assert!(lines.take(b"Kernel panic - not\nsyncing: \n").is_empty());
        assert!(lines.take(&[b'x'; 3 * LONGEST_LINE]).is_empty() && lines.begun.len() <= LONGEST_LINE);
    }
}
