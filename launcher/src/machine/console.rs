//! The kernel's console: a file that the hypervisor writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;

use super::event::Event;
use super::growth::Growth;
use crate::child;
use crate::failure::{About, Failure};

/// How the kernel begins the line by which it gives up (`kernel/panic.c`).
pub(crate) const PANIC: &str = "Kernel panic - not syncing: ";

/// Makes the console's file anew and reads it as it grows, for as long as this process lives: copies it to standard
/// error if it is to be shown, and tells when the kernel panics.
///
/// # Errors
/// The file cannot be made or watched.
pub(crate) fn watch(path: &Path, show: bool, events: Sender<Event>) -> Result<(), Failure> {
    let about = || path.display().to_string();
    drop(File::create(path).about(about())?);
    let mut file = File::open(path).about(about())?;
    let growth = Growth::of(path).about(about())?;
    thread::spawn(move || {
        let mut panic = Needle::default();
        let mut buffer = vec![0; 8192];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => growth.wait(None, None),
                Ok(count) => {
                    if show {
                        let _ = io::stderr().write_all(&buffer[..count]);
                    }
                    if panic.passes(&buffer[..count]) && events.send(Event::Panicked).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    Ok(())
}

/// Looks for [`PANIC`] in a stream that comes in pieces.
#[derive(Debug, Default)]
struct Needle {
    /// The end of the stream so far, one byte shorter than what is looked for.
    tail: Vec<u8>,
}

impl Needle {
    /// Whether the stream, with this piece, has come past one more.
    fn passes(&mut self, piece: &[u8]) -> bool {
        self.tail.extend(piece);
        let found = self.tail.windows(PANIC.len()).any(|window| window == PANIC.as_bytes());
        let keep = self.tail.len().saturating_sub(PANIC.len() - 1);
        self.tail.drain(..keep);
        found
    }
}

/// Shows the end of the console.
pub(crate) fn print_tail(path: &Path) {
    let tail = child::tail(path, 15);
    if !tail.is_empty() {
        eprintln!("--- last lines of the guest's console ---\n{tail}\n---");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_wherever_the_pieces_are_cut() {
        let line = b"[    1.5] Kernel panic - not syncing: Attempted to kill init!\n";
        for cut in 0..line.len() {
            let mut needle = Needle::default();
            let found = [&line[..cut], &line[cut..]].map(|piece| needle.passes(piece));
            assert_eq!(found.iter().filter(|found| **found).count(), 1, "cut at {cut}");
        }
        let mut needle = Needle::default();
        assert!(!needle.passes(b"Kernel panic - not") && !needle.passes(b"\nsyncing: "));
    }
}
