//! The kernel's console: a file that the hypervisor writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;

use guest_protocol::WRITES_FULL;

use super::event::Event;
use super::file_watch::FileWatch;
use crate::failure::{About, Failure};
use crate::host::child;

/// How the kernel begins the line by which it gives up (`kernel/panic.c`).
pub(crate) const PANIC: &str = "Kernel panic - not syncing: ";

/// How it begins the line by which it tells of a process that it killed for want of memory (`mm/oom_kill.c`); behind it
/// the process's id and, in parentheses, its name.
const OUT_OF_MEMORY: &str = "Out of memory: Killed process ";

/// The longest line of which the end is waited for, in bytes.
const LONGEST_LINE: usize = 4096;

/// Makes the console's file anew and reads it as it grows, for as long as this process lives: copies it to standard
/// error if it is to be shown, and tells when the kernel panics or kills a process.
///
/// # Errors
/// The file cannot be made or watched.
pub(crate) fn watch(path: &Path, show: bool, events: Sender<Event>) -> Result<(), Failure> {
    let about = || path.display().to_string();
    drop(File::create(path).about(about())?);
    let mut file = File::open(path).about(about())?;
    let growth = FileWatch::of(path).about(about())?;
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

/// The lines of a stream that comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    /// What the lines that end in this piece tell.
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
    if line.contains(PANIC) {
        return Some(Event::Panicked);
    }
    if let Some(at) = line.find(WRITES_FULL) {
        return line.get(at + "lamina: ".len()..).map(|told| Event::WritesFull(told.trim_end().to_owned()));
    }
    let (_, killed) = line.split_once(OUT_OF_MEMORY)?;
    let (_, name) = killed.split_once('(')?;
    // A name may hold parentheses; what follows it does not.
    let (name, _) = name.split_once(") total-vm")?;
    Some(Event::MemoryRanOut(name.to_owned()))
}

/// Shows the end of the console.
pub(crate) fn print_tail(path: &Path) {
    let tail = child::tail(path, 15);
    if !tail.is_empty() {
        tell!("--- last lines of the guest's console ---\n{tail}\n---");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_wherever_the_pieces_are_cut() {
        let text = b"[    1.5] Kernel panic - not syncing: Attempted to kill init!\r\n\
            [    2.5] Out of memory: Killed process 71 (a (b)) total-vm:8kB, anon-rss:4kB\r\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let told: Vec<Event> =
                [&text[..cut], &text[cut..]].into_iter().flat_map(|piece| lines.take(piece)).collect();
            let [Event::Panicked, Event::MemoryRanOut(name)] = &told[..] else { panic!("cut at {cut}: {told:?}") };
            assert_eq!(name, "a (b)");
        }
        let mut lines = Lines::default();
        let full = "lamina: the memory for the guest's writes is full (64 MiB); give it more with --tmpfs-size";
        let [Event::WritesFull(told)] = &lines.take(format!("{full}\r\n").as_bytes())[..] else { panic!("{full}") };
        assert_eq!(format!("lamina: {told}"), full);
        assert!(lines.take(b"Kernel panic - not\nsyncing: \n").is_empty());
        assert!(lines.take(&[b'x'; 3 * LONGEST_LINE]).is_empty() && lines.begun.len() <= LONGEST_LINE);
    }
}
