//! The guest's console, on its way from Firecracker to the machine's: what it says of the end of the guest.

use std::fs::File;
use std::io::Write;

use crate::host::process::Handle;

/// The longest beginning of a line, in bytes, that is looked at.
const LONGEST_LINE: usize = 4096;

/// How a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has powered off or halted, which Firecracker does not notice.
    PoweredOff,
    /// Its kernel panicked. It reboots next.
    Panicked,
}

/// Passes on what the guest writes until Firecracker has ended, and kills it when the guest has powered off. Returns how
/// the guest stopped, if it said so. A guest can forge that, but it only ends itself.
pub(super) fn follow(source: &File, mut target: File, engine: &Handle) -> Option<Stop> {
    let mut lines = Lines::default();
    engine.drain(source, |piece| {
        // Fails when nothing reads it any more.
        let _ = target.write_all(piece);
        if lines.take(piece) {
            engine.kill();
        }
    });
    lines.stop
}

/// Splits a stream that arrives in pieces into lines.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
    stop: Option<Stop>,
}

impl Lines {
    /// Returns whether a line that ends in this piece says that the guest has powered off.
    fn take(&mut self, piece: &[u8]) -> bool {
        let before = self.stop;
        for &byte in piece {
            if byte == b'\n' {
                self.stop = self.stop.or_else(|| stop(&String::from_utf8_lossy(&self.begun)));
                self.begun.clear();
            } else if self.begun.len() < LONGEST_LINE {
                self.begun.push(byte);
            }
        }
        before.is_none() && self.stop == Some(Stop::PoweredOff)
    }
}

/// Returns what a line of the kernel says of its end (`kernel/panic.c`, `kernel/reboot.c`). Lines of this urgency are
/// written even with `quiet`.
fn stop(line: &str) -> Option<Stop> {
    if line.contains("Kernel panic - not syncing: ") {
        return Some(Stop::Panicked);
    }
    let (_, after) = line.split_once("reboot: ")?;
    let halted = after.contains("System halted") || after.contains("Power down");
    halted.then_some(Stop::PoweredOff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_in_which_a_guest_stops_is_seen_wherever_the_pieces_are_cut() {
        for (line, expected) in [
            ("[    1.5] reboot: System halted\r\n", Some(Stop::PoweredOff)),
            ("[    1.5] reboot: Power down\r\n", Some(Stop::PoweredOff)),
            ("[    1.5] reboot: Power off not available: System halted instead\r\n", Some(Stop::PoweredOff)),
            ("[    1.5] Kernel panic - not syncing: Attempted to kill init!\r\n", Some(Stop::Panicked)),
            ("[    1.5] reboot: Restarting system\r\n", None),
            ("System halted\r\n", None),
        ] {
            let text = format!("first\r\n{line}last\r\n").into_bytes();
            for cut in 0..text.len() {
                let mut lines = Lines::default();
                let kills = [&text[..cut], &text[cut..]].into_iter().filter(|piece| lines.take(piece)).count();
                assert_eq!(lines.stop, expected, "{line:?} cut at {cut}");
                assert_eq!(kills, usize::from(expected == Some(Stop::PoweredOff)));
            }
        }
    }

    #[test]
    fn what_came_first_counts_and_a_line_without_end_is_not_kept() {
        let mut lines = Lines::default();
        assert!(!lines.take(b"Kernel panic - not syncing: x\nreboot: System halted\n"));
        assert_eq!(lines.stop, Some(Stop::Panicked));
        let mut lines = Lines::default();
        assert!(!lines.take(&[b'x'; 3 * LONGEST_LINE]) && lines.begun.len() == LONGEST_LINE);
    }
}
