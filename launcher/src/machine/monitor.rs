//! QEMU's monitor (QMP): only what it says about the machine's end.

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
        if let Some(reason) = shutdown_reason(&line?) {
            let _ = events.send(Event::Shutdown(reason));
        }
    }
    Ok(())
}

/// The `reason` of a `SHUTDOWN` event: `guest-shutdown`, `guest-reset`, `guest-panic`, `host-signal`, ...
fn shutdown_reason(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    (message.get("event")? == "SHUTDOWN").then_some(())?;
    Some(message.get("data")?.get("reason")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shutdown_event_tells_a_reason() {
        let event =
            r#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(shutdown_reason(event), Some("guest-reset".to_owned()));
        for other in [r#"{"return": {}}"#, r#"{"event": "RESET", "data": {"reason": "guest-reset"}}"#, "", "x"] {
            assert_eq!(shutdown_reason(other), None);
        }
    }
}
