//! What Cloud Hypervisor says about its guest's end (`--event-monitor`). It comes from a process that a guest may have
//! taken over, so its length is bounded.
//!
//! This file uses nothing else from the crate, because a fuzz target includes it.

use serde_json::Value;

/// The longest event in bytes. Those that it has take up to a few hundred.
const LONGEST: usize = 64 << 10;

/// Why a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The guest powered off, or the engine was told to end.
    PoweredOff,
    /// The guest reboots. The engine would start it again.
    Rebooted,
    /// The guest's kernel panicked, and has a driver that says so.
    Panicked,
}

/// Reads events: JSON objects of several lines, of which only the last begins with a closing brace.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    event: Vec<u8>,
    /// Whether what is being read is too long, and left out.
    skips: bool,
    /// The guest was shut down. What follows says whether that was the end of it.
    was_shut_down: bool,
    /// The first stop that was told.
    stop: Option<Stop>,
}

impl Reader {
    /// Reads the next piece. Returns why the machine stops, as soon as that is known.
    pub(super) fn take(&mut self, piece: &[u8]) -> Option<Stop> {
        for &byte in piece {
            if self.line.len() + self.event.len() >= LONGEST {
                (self.skips, self.line, self.event) = (true, Vec::new(), Vec::new());
            }
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let ends = line.first() == Some(&b'}');
            self.event.extend(line);
            if ends {
                let event = std::mem::take(&mut self.event);
                if !std::mem::take(&mut self.skips) {
                    self.note(&event);
                }
            }
        }
        self.stop
    }

    /// A shutdown is followed by `deleted` if the guest powered off. Up to v38, a reboot is a shutdown that a boot follows,
    /// and has no event of its own.
    fn note(&mut self, event: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(event) else { return };
        let word = |name| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let stop = match (word("source"), word("event")) {
            ("vm", "rebooting" | "rebooted") => Some(Stop::Rebooted),
            ("vm", "booting" | "booted") if self.was_shut_down => Some(Stop::Rebooted),
            ("vm", "deleted") if self.was_shut_down => Some(Stop::PoweredOff),
            ("vm", "shutdown") => {
                self.was_shut_down = true;
                None
            }
            ("guest", "panic") => Some(Stop::Panicked),
            _ => None,
        };
        self.stop = self.stop.or(stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(source: &str, event: &str) -> String {
        format!(
            "{{\n  \"timestamp\": {{\n    \"secs\": 1,\n    \"nanos\": 2\n  }},\n  \"source\": \"{source}\",\n  \
             \"event\": \"{event}\",\n  \"properties\": null\n}}\n\n"
        )
    }

    fn stop(events: &[(&str, &str)]) -> Option<Stop> {
        let text: String = events.iter().map(|(source, name)| event(source, name)).collect();
        let mut reader = Reader::default();
        let whole = reader.take(text.as_bytes());
        let mut by_byte = Reader::default();
        let last = text.as_bytes().iter().fold(None, |_, byte| by_byte.take(&[*byte]));
        assert_eq!(whole, last, "pieces of any length say the same");
        whole
    }

    const STARTED: [(&str, &str); 4] =
        [("vmm", "starting"), ("vm", "booting"), ("virtio-device", "activated"), ("vm", "booted")];

    #[test]
    fn each_way_in_which_a_guest_stops_has_its_type() {
        let after = |events: &[(&str, &str)]| stop(&[&STARTED, events].concat());
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[("vm", "shutdown")]), None, "it may be a reboot of v38");
        let off = [("vm", "shutdown"), ("vm", "deleted"), ("vmm", "shutdown")];
        assert_eq!(after(&off), Some(Stop::PoweredOff));
        assert_eq!(after(&[("vm", "rebooting")]), Some(Stop::Rebooted));
        assert_eq!(after(&[("vm", "rebooting"), ("vm", "shutdown"), ("vm", "deleted")]), Some(Stop::Rebooted));
        assert_eq!(after(&[("vm", "shutdown"), ("vm", "booted")]), Some(Stop::Rebooted));
        assert_eq!(after(&[("guest", "panic"), ("vm", "rebooting")]), Some(Stop::Panicked));
        assert_eq!(stop(&[("vmm", "starting"), ("vm", "deleted")]), None, "a guest that did not start");
    }

    #[test]
    fn what_is_no_event_or_too_long_is_left_out_and_what_follows_is_read() {
        let reboot = event("vm", "rebooting");
        for odd in ["}\n", "\n\n", "{\n}\n", "[]\n}\n", "\u{1b}\n}\n", "{ \"event\": [\n}\n"] {
            assert_eq!(Reader::default().take(format!("{odd}{reboot}").as_bytes()), Some(Stop::Rebooted), "{odd:?}");
        }
        let mut reader = Reader::default();
        for _ in 0..1000 {
            assert_eq!(reader.take(&[b'x'; 4096]), None);
            assert!(reader.line.len() + reader.event.len() <= LONGEST);
        }
        assert_eq!(reader.take(format!("\n}}\n{reboot}").as_bytes()), Some(Stop::Rebooted));
    }
}
