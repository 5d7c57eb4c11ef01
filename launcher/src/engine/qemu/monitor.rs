//! QEMU's monitor (QMP): what QEMU says about the guest's end and about its disks.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::qmp::{self, Said, Stop};
use crate::engine::contract::{Event, Events, Exit};

/// How often a failing disk is reported. A guest can make its disk fail again and again.
const MOST_REPORTS: usize = 64;

/// Passes on what QEMU says until the channel ends. Returns why the machine stopped, if QEMU said so.
pub(super) fn listen(stream: &UnixStream, events: &Events) -> Option<Exit> {
    let (mut exit, mut reports) = (None, 0);
    if let Err(error) = read(stream, |said| match said {
        Said::Stops(Stop::PoweredOff) => exit = Some(Exit::PoweredOff),
        Said::Stops(Stop::Rebooted) => exit = Some(Exit::Rebooted),
        Said::Stops(Stop::Panicked) => exit = Some(Exit::Panicked),
        Said::DiskFailed(cause) if reports < MOST_REPORTS => {
            reports += 1;
            events(Event::DiskFailed(cause));
        }
        Said::DiskFailed(_) => {}
    }) {
        tracing::debug!("QEMU's monitor: {error}");
    }
    exit
}

/// Reads messages, one JSON object on each line. QEMU sends no events until its capabilities have been negotiated
/// (`docs/interop/qmp-spec`, "Capabilities Negotiation").
fn read(mut stream: &UnixStream, mut take: impl FnMut(Said)) -> io::Result<()> {
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    let mut lines = BufReader::new(stream);
    while let Some(line) = qmp::read_line(&mut lines)? {
        qmp::parse(&line).into_iter().for_each(&mut take);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

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
