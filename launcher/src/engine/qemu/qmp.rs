//! The lines of QEMU's monitor. They come from a process that a guest may have taken over, so their length is bounded.
//!
//! This file uses nothing else from the crate, because a fuzz target includes it.

use std::io::{self, BufRead};

use serde_json::Value;

/// The longest line in bytes. QEMU's longest answer to what we ask has a few hundred.
const LONGEST: usize = 64 << 10;

/// The longest cause in characters.
const LONGEST_CAUSE: usize = 200;

/// The part of a message that we need.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Why the machine stops.
    Stops(Stop),
    /// A disk could not be read or written, in the host's words.
    DiskFailed(String),
}

/// Why a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    PoweredOff,
    Rebooted,
    Panicked,
}

/// Reads one line, without its end. Returns `None` at the end of the stream. Bytes after the last line end are not a
/// line.
///
/// # Errors
/// The reader's error, or `InvalidData` for a line that is too long.
pub(super) fn read_line(mut from: impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let there = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            there => there?,
        };
        if there.is_empty() {
            return Ok(None);
        }
        let end = there.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(there.len());
        if line.len() + taken > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line of more than {LONGEST} bytes")));
        }
        line.extend(&there[..taken]);
        from.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// The reasons of `SHUTDOWN` are QMP's `ShutdownCause`. Those of the host (`host-signal`, `host-error`, ...) are
/// ignored, because what QEMU wrote before it ended says more.
pub(super) fn parse(line: &[u8]) -> Option<Said> {
    let message: Value = serde_json::from_slice(line).ok()?;
    let reason = message.get("data")?.get("reason")?.as_str()?;
    match (message.get("event")?.as_str()?, reason) {
        ("SHUTDOWN", "guest-shutdown") => Some(Said::Stops(Stop::PoweredOff)),
        ("SHUTDOWN", "guest-reset") => Some(Said::Stops(Stop::Rebooted)),
        ("SHUTDOWN", "guest-panic") => Some(Said::Stops(Stop::Panicked)),
        ("BLOCK_IO_ERROR", cause) => Some(Said::DiskFailed(cause.chars().take(LONGEST_CAUSE).collect())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(reason: &str) -> Option<Said> {
        let data = format!(r#"{{"guest": true, "reason": "{reason}"}}"#);
        parse(format!(r#"{{"timestamp": {{"seconds": 1}}, "event": "SHUTDOWN", "data": {data}}}"#).as_bytes())
    }

    #[test]
    fn each_way_in_which_a_guest_stops_has_its_type() {
        assert_eq!(stops("guest-shutdown"), Some(Said::Stops(Stop::PoweredOff)));
        assert_eq!(stops("guest-reset"), Some(Said::Stops(Stop::Rebooted)));
        assert_eq!(stops("guest-panic"), Some(Said::Stops(Stop::Panicked)));
        assert_eq!(stops("host-signal"), None, "QEMU's own words say it better");
    }

    #[test]
    fn messages_that_do_not_concern_us_are_passed_over() {
        let full = r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "", "nospace": true, "node-name": "disk0",
            "reason": "No space left on device", "operation": "write", "action": "report"}}"#;
        assert_eq!(parse(full.as_bytes()), Some(Said::DiskFailed("No space left on device".into())));
        for other in
            [r#"{"return": {}}"#, r#"{"event": "RESET", "data": {"reason": "guest-reset"}}"#, "", "x", "\u{1b}"]
        {
            assert_eq!(parse(other.as_bytes()), None);
        }
        let long = format!(r#"{{"event": "BLOCK_IO_ERROR", "data": {{"reason": "{}"}}}}"#, "é".repeat(10_000));
        assert_eq!(parse(long.as_bytes()), Some(Said::DiskFailed("é".repeat(LONGEST_CAUSE))));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_held() {
        let mut lines = &b"a\n\nb\nrest"[..];
        let mut read = || read_line(&mut lines).unwrap();
        assert_eq!([read(), read(), read(), read()], [Some(b"a".into()), Some(b"".into()), Some(b"b".into()), None]);
        let endless = io::BufReader::new(io::repeat(b'x'));
        assert_eq!(read_line(endless).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
