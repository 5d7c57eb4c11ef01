//! QEMU's monitor (QMP): what QEMU says about the guest's end and about its disks.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::engine::contract::{Event, Events, Exit};

/// The part of a message that we need.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Why the machine stops.
    Stops(Exit),
    /// A disk could not be read or written, in the host's words.
    DiskFailed(String),
}

/// Passes on what QEMU says until the channel ends. Returns why the machine stopped, if QEMU said so.
pub(super) fn listen(stream: &UnixStream, events: &Events) -> Option<Exit> {
    let mut exit = None;
    if let Err(error) = read(stream, |said| match said {
        Said::Stops(why) => exit = Some(why),
        Said::DiskFailed(cause) => events(Event::DiskFailed(cause)),
    }) {
        tracing::debug!("QEMU's monitor: {error}");
    }
    exit
}

/// Reads messages, one JSON object on each line. QEMU sends no events until its capabilities have been negotiated
/// (`docs/interop/qmp-spec`, "Capabilities Negotiation").
fn read(mut stream: &UnixStream, mut take: impl FnMut(Said)) -> io::Result<()> {
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    for line in BufReader::new(stream).lines() {
        parse(&line?).into_iter().for_each(&mut take);
    }
    Ok(())
}

/// The reasons of `SHUTDOWN` are QMP's `ShutdownCause`. Those of the host (`host-signal`, `host-error`, ...) are
/// ignored, because what QEMU wrote before it ended says more.
fn parse(line: &str) -> Option<Said> {
    let message: Value = serde_json::from_str(line).ok()?;
    let reason = message.get("data")?.get("reason")?.as_str()?;
    match (message.get("event")?.as_str()?, reason) {
        ("SHUTDOWN", "guest-shutdown") => Some(Said::Stops(Exit::PoweredOff)),
        ("SHUTDOWN", "guest-reset") => Some(Said::Stops(Exit::Rebooted)),
        ("SHUTDOWN", "guest-panic") => Some(Said::Stops(Exit::Panicked)),
        ("BLOCK_IO_ERROR", cause) => Some(Said::DiskFailed(cause.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn stops(reason: &str) -> Option<Said> {
        parse(&format!(
            r#"{{"timestamp": {{"seconds": 1}}, "event": "SHUTDOWN", "data": {{"guest": true, "reason": "{reason}"}}}}"#
        ))
    }

    #[test]
    fn each_way_in_which_a_guest_stops_has_its_type() {
        assert_eq!(stops("guest-shutdown"), Some(Said::Stops(Exit::PoweredOff)));
        assert_eq!(stops("guest-reset"), Some(Said::Stops(Exit::Rebooted)));
        assert_eq!(stops("guest-panic"), Some(Said::Stops(Exit::Panicked)));
        assert_eq!(stops("host-signal"), None, "QEMU's own words say it better");
    }

    #[test]
    fn messages_that_do_not_concern_us_are_passed_over() {
        let full = r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "", "nospace": true, "node-name": "disk0",
            "reason": "No space left on device", "operation": "write", "action": "report"}}"#;
        assert_eq!(parse(full), Some(Said::DiskFailed("No space left on device".into())));
        for other in [r#"{"return": {}}"#, r#"{"event": "RESET", "data": {"reason": "guest-reset"}}"#, "", "x"] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn all_that_was_said_before_the_channel_ended_is_heard() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let events: Events = {
            let told = Arc::clone(&told);
            Arc::new(move |event| told.lock().unwrap().push(format!("{event:?}")))
        };
        writeln!(theirs, r#"{{"event": "BLOCK_IO_ERROR", "data": {{"reason": "full"}}}}"#).unwrap();
        writeln!(theirs, r#"{{"event": "SHUTDOWN", "data": {{"reason": "guest-reset"}}}}"#).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(listen(&ours, &events), Some(Exit::Rebooted));
        assert_eq!(*told.lock().unwrap(), [r#"DiskFailed("full")"#]);
    }
}
