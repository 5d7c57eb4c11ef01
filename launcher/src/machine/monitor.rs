//! QEMU's monitor (QMP): what it says about the machine's end and its disk.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;

use serde_json::Value;

use super::event::Event;

/// Waits for QEMU to connect and passes on why it stops, in a thread of its own.
pub(crate) fn watch(listener: UnixListener, events: Sender<Event>) {
    std::thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else { return };
        let _ = events.send(Event::Monitor(true));
        if let Err(error) = listen(&stream, &events) {
            tracing::debug!("monitor: {error}");
        }
        let _ = events.send(Event::Monitor(false));
    });
}

/// Reads messages, one JSON object to a line, to the end. QMP is silent until its capabilities have been
/// negotiated (`docs/interop/qmp-spec`, "Capabilities Negotiation").
fn listen(mut stream: &UnixStream, events: &Sender<Event>) -> io::Result<()> {
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    for line in BufReader::new(stream).lines() {
        if let Some(event) = parse(&line?) {
            let _ = events.send(event);
        }
    }
    Ok(())
}

/// What a message tells that concerns us, by its `reason`: of `SHUTDOWN` that is `guest-shutdown`, `guest-reset`,
/// `guest-panic`, `host-signal`, ..., of `BLOCK_IO_ERROR` the host's error in words.
fn parse(line: &str) -> Option<Event> {
    let message: Value = serde_json::from_str(line).ok()?;
    let reason = message.get("data")?.get("reason")?.as_str()?.to_owned();
    match message.get("event")?.as_str()? {
        "SHUTDOWN" => Some(Event::Shutdown(reason)),
        "BLOCK_IO_ERROR" => Some(Event::DiskFailed(reason)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_and_an_error_of_the_disk_are_told_and_nothing_else() {
        let end =
            r#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert!(matches!(parse(end), Some(Event::Shutdown(reason)) if reason == "guest-reset"));
        let full = r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "", "nospace": true, "node-name": "disk0",
            "reason": "No space left on device", "operation": "write", "action": "report"}}"#;
        assert!(matches!(parse(full), Some(Event::DiskFailed(reason)) if reason == "No space left on device"));
        for other in [r#"{"return": {}}"#, r#"{"event": "RESET", "data": {"reason": "guest-reset"}}"#, "", "x"] {
            assert!(parse(other).is_none());
        }
    }
}
