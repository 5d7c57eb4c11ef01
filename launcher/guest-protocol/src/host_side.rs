//! The host's view of the protocol: what the guest may say next.

use std::collections::HashMap;
use std::fmt;

use crate::message::Channel;
use crate::{MACHINE, MAX_WARNINGS, Message, Protocol, WINDOW, cost};

/// Checks what a guest says against what the host has said: order, streams and windows.
///
/// It does no I/O. The host reports each message before it is sent ([`HostSide::sends`]), and asks about each message
/// that it has received ([`HostSide::receives`]).
#[derive(Debug, Default)]
pub struct HostSide {
    greeted: bool,
    set_up: bool,
    ready: bool,
    failed: bool,
    told_to_power_off: bool,
    halting: bool,
    warnings: u32,
    streams: HashMap<u32, Stream>,
}

/// What the host does with a message that the guest may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Handles it.
    Handle,
    /// Drops it: it is a warning too many.
    Drop,
}

/// How a guest broke the protocol. The text is the reason that users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach(String);

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Breach {}

/// A process or a connection, until the guest's last message about it.
#[derive(Debug)]
struct Stream {
    is_process: bool,
    /// A process has been started.
    started: bool,
    /// A connection's service has ended its direction.
    output_ended: bool,
    window: u32,
    /// What the host has sent and the guest has not returned.
    input: u32,
    /// What the guest has sent and the host has not returned: standard output, standard error.
    output: [u32; 2],
}

impl Stream {
    const fn process() -> Self {
        Self { is_process: true, started: false, output_ended: false, window: WINDOW, input: 0, output: [0; 2] }
    }

    const fn connection(protocol: Protocol) -> Self {
        Self { is_process: false, window: protocol.window(), ..Self::process() }
    }
}

impl HostSide {
    /// Returns the state of a channel on which one process has been asked for under `stream`, and everything before that
    /// has been said. Clients of a supervisor have such a channel.
    #[must_use]
    pub fn with_process(stream: u32) -> Self {
        let streams = HashMap::from([(stream, Stream::process())]);
        Self { greeted: true, set_up: true, ready: true, streams, ..Self::default() }
    }

    /// Notes a message that the host is about to send. Returns whether it may be sent: it must not if its stream has
    /// ended, or if it is input for which the window has no room.
    #[must_use]
    pub fn sends(&mut self, stream: u32, message: &Message) -> bool {
        match message {
            Message::Setup(_) => self.set_up = true,
            Message::PowerOff => self.told_to_power_off = true,
            Message::Secret(_) => {}
            Message::Start(_) => drop(self.streams.insert(stream, Stream::process())),
            Message::Connect(service) => drop(self.streams.insert(stream, Stream::connection(service.protocol))),
            Message::Credit(channel, bytes) => {
                let Some(found) = self.streams.get_mut(&stream) else { return false };
                if let Some(under_way) = output_of(found, *channel) {
                    *under_way = under_way.saturating_sub(*bytes);
                }
            }
            Message::Stdin(bytes) if !bytes.is_empty() => {
                let Some(found) = self.streams.get_mut(&stream) else { return false };
                let under_way = found.input.saturating_add(cost(bytes.len()));
                if under_way > found.window {
                    return false;
                }
                found.input = under_way;
            }
            _ => return self.streams.contains_key(&stream),
        }
        true
    }

    /// Returns how many bytes may be in the next frame of input, if its stream exists.
    #[must_use]
    pub fn room(&self, stream: u32) -> Option<usize> {
        let found = self.streams.get(&stream)?;
        let left = found.window.saturating_sub(found.input);
        Some(left.saturating_sub(cost(0)) as usize)
    }

    /// Checks a message that the guest has sent.
    ///
    /// # Errors
    /// The guest must not send it now.
    pub fn receives(&mut self, stream: u32, message: &Message) -> Result<Verdict, Breach> {
        if stream == MACHINE {
            return self.receives_of_machine(message);
        }
        let breach = |what: &str| Err(Breach(format!("{} {what} (stream {stream})", message.name())));
        let Some(found) = self.streams.get_mut(&stream) else { return breach("for a stream that does not exist") };
        match message {
            Message::Started if found.is_process && !found.started => found.started = true,
            Message::Stdout(bytes) if bytes.is_empty() && !found.is_process && !found.output_ended => {
                found.output_ended = true;
            }
            Message::Stdout(bytes) | Message::Stderr(bytes) => {
                if bytes.is_empty() || found.output_ended || found.is_process != found.started {
                    return breach("that does not belong there");
                }
                let channel = if matches!(message, Message::Stdout(_)) { Channel::Stdout } else { Channel::Stderr };
                let window = found.window;
                let Some(under_way) = output_of(found, channel) else { return breach("of a connection") };
                *under_way = under_way.saturating_add(cost(bytes.len()));
                if *under_way > window {
                    return Err(Breach(format!(
                        "{} with {} bytes where the window has no room (stream {stream})",
                        message.name(),
                        bytes.len()
                    )));
                }
            }
            Message::Credit(Channel::Stdin, bytes) => {
                if *bytes < cost(1) || *bytes > found.input {
                    return breach("for what was not sent");
                }
                found.input -= bytes;
            }
            Message::Exited(_) if found.is_process && found.started => drop(self.streams.remove(&stream)),
            Message::StartFailed(_) if found.is_process => drop(self.streams.remove(&stream)),
            Message::Disconnected { .. } if !found.is_process => drop(self.streams.remove(&stream)),
            _ => return breach("that does not belong there"),
        }
        Ok(Verdict::Handle)
    }

    fn receives_of_machine(&mut self, message: &Message) -> Result<Verdict, Breach> {
        let name = message.name();
        let breach = |what: &str| Err(Breach(format!("{name} {what}")));
        let once = |done: &mut bool| {
            if std::mem::replace(done, true) { breach("for the second time") } else { Ok(Verdict::Handle) }
        };
        match message {
            Message::Hello(_) => once(&mut self.greeted),
            _ if !self.greeted => breach("before Hello"),
            Message::Ready if !self.set_up => breach("before Setup"),
            Message::Ready => once(&mut self.ready),
            Message::Fatal(_) => once(&mut self.failed),
            Message::Halting if !self.told_to_power_off => breach("before PowerOff"),
            Message::Halting => once(&mut self.halting),
            Message::Warning(_) => {
                self.warnings = self.warnings.saturating_add(1);
                Ok(if self.warnings > MAX_WARNINGS { Verdict::Drop } else { Verdict::Handle })
            }
            _ => breach("for the machine as a whole"),
        }
    }
}

/// Returns the count of an output that is under way. A connection has no standard error.
const fn output_of(stream: &mut Stream, channel: Channel) -> Option<&mut u32> {
    match channel {
        Channel::Stdin => None,
        Channel::Stdout => Some(&mut stream.output[0]),
        Channel::Stderr if stream.is_process => Some(&mut stream.output[1]),
        Channel::Stderr => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ending, HEADER, Hello, Overlay, Process, Protocol, RootSource, Service, Setup, StartError, Warning};

    fn hello() -> Message {
        Message::Hello(Hello { version: crate::VERSION, kernel: "6.1".into() })
    }

    fn setup() -> Message {
        Message::Setup(Setup {
            hostname: "m".into(),
            seconds: 0,
            nanoseconds: 0,
            root: RootSource::Share("root".into()),
            overlay: Overlay::ReadOnly,
            shares: Vec::new(),
            network: None,
            directories: Vec::new(),
            volumes: Vec::new(),
            init_system: false,
            user: None,
            options: Box::default(),
        })
    }

    /// A guest that is ready, with a process under stream 1 that runs and a connection under stream 2.
    fn running() -> HostSide {
        let mut host = HostSide::default();
        host.receives(MACHINE, &hello()).unwrap();
        assert!(host.sends(MACHINE, &setup()));
        host.receives(MACHINE, &Message::Ready).unwrap();
        assert!(host.sends(1, &Message::Start(Process::tool(&["x"]))));
        host.receives(1, &Message::Started).unwrap();
        assert!(host.sends(2, &Message::Connect(Service { port: 80, protocol: Protocol::Tcp })));
        host
    }

    fn started_failed() -> Message {
        Message::StartFailed(StartError { status: 127, cause: "x".into() })
    }

    #[test]
    fn what_does_not_belong_is_a_breach() {
        let ended = || Message::Exited(Ending::Status(0));
        for (stream, message) in [
            (MACHINE, hello()),
            (MACHINE, setup()),
            (MACHINE, Message::Ready),
            (MACHINE, Message::Halting),
            (MACHINE, Message::PowerOff),
            (MACHINE, Message::Stdout(vec![1])),
            (1, hello()),
            (1, Message::Fatal("x".into())),
            (1, Message::Warning(Warning::OpenFilesFull)),
            (1, Message::Started),
            (1, Message::Stdin(vec![1])),
            (1, Message::Stdout(vec![])),
            (1, Message::Stderr(vec![])),
            (1, Message::Disconnected { in_order: true }),
            (1, Message::Credit(Channel::Stdin, 13)),
            (1, Message::Credit(Channel::Stdout, 13)),
            (2, Message::Started),
            (2, Message::Stderr(vec![1])),
            (2, ended()),
            (2, started_failed()),
            (2, Message::Credit(Channel::Stdin, 13)),
            (3, Message::Stdout(vec![1])),
            (3, ended()),
            (3, Message::Started),
        ] {
            assert!(running().receives(stream, &message).is_err(), "{stream} {message:?}");
        }
        for first in [Message::Ready, Message::Fatal("x".into()), Message::Warning(Warning::OpenFilesFull)] {
            assert!(HostSide::default().receives(MACHINE, &first).is_err(), "{first:?} before Hello");
        }
        let mut early = HostSide::default();
        early.receives(MACHINE, &hello()).unwrap();
        assert!(early.receives(MACHINE, &Message::Ready).is_err(), "before Setup");
        let mut not_started = running();
        assert!(not_started.sends(5, &Message::Start(Process::tool(&["x"]))));
        assert!(not_started.receives(5, &Message::Stdout(vec![1])).is_err());
        assert!(not_started.receives(5, &ended()).is_err());
    }

    #[test]
    fn a_run_that_keeps_to_the_protocol_is_taken() {
        let mut host = running();
        assert!(host.sends(1, &Message::Stdin(vec![0; 100])));
        for (stream, message) in [
            (1, Message::Stdout(vec![1])),
            (1, Message::Credit(Channel::Stdin, cost(100))),
            (2, Message::Stdout(vec![1])),
            (2, Message::Stdout(vec![])),
            (2, Message::Disconnected { in_order: true }),
            (1, Message::Exited(Ending::Status(0))),
        ] {
            assert_eq!(host.receives(stream, &message), Ok(Verdict::Handle), "{stream} {message:?}");
        }
        assert!(host.receives(1, &Message::Stdout(vec![1])).is_err(), "it has ended");
        assert!(!host.sends(1, &Message::Signal(15)), "it has ended");
        assert!(host.sends(MACHINE, &Message::PowerOff));
        host.receives(MACHINE, &Message::Halting).unwrap();
        assert!(host.receives(MACHINE, &Message::Halting).is_err());
    }

    #[test]
    fn a_window_holds_in_both_directions_and_counts_headers() {
        let mut host = running();
        let full = WINDOW as usize - HEADER;
        host.receives(1, &Message::Stdout(vec![0; full])).unwrap();
        host.receives(1, &Message::Stderr(vec![0; 1])).unwrap();
        assert!(host.sends(1, &Message::Credit(Channel::Stdout, cost(1))));
        host.receives(1, &Message::Stdout(vec![0; 1])).unwrap();
        assert!(host.receives(1, &Message::Stdout(vec![0; 1])).is_err());
        assert_eq!(host.room(1), Some(full));
        assert!(host.sends(1, &Message::Stdin(vec![0; full])));
        assert_eq!(host.room(1), Some(0));
        assert!(!host.sends(1, &Message::Stdin(vec![0; 1])));
        assert!(host.sends(1, &Message::Stdin(Vec::new())), "the end of the input needs no room");
        assert!(host.receives(1, &Message::Credit(Channel::Stdin, 12)).is_err(), "less than any frame");
        let of_connection = Protocol::Tcp.window() as usize - HEADER;
        host.receives(2, &Message::Stdout(vec![0; of_connection])).unwrap();
        assert!(host.receives(2, &Message::Stdout(vec![0; 1])).is_err());
    }

    #[test]
    fn short_frames_use_the_window_up_soon() {
        let mut host = running();
        let taken = (0..).take_while(|_| host.receives(1, &Message::Stdout(vec![0])).is_ok()).count();
        assert_eq!(taken, WINDOW as usize / (HEADER + 1));
    }

    #[test]
    fn warnings_beyond_the_limit_are_dropped() {
        let mut host = running();
        let warning = Message::Warning(Warning::MemoryRanOut { process: "x".into() });
        let handled = (0..10_000).filter(|_| host.receives(MACHINE, &warning) == Ok(Verdict::Handle)).count();
        assert_eq!(handled, MAX_WARNINGS as usize);
    }

    #[test]
    fn a_client_has_one_process() {
        let mut host = HostSide::with_process(1);
        host.receives(1, &Message::Started).unwrap();
        host.receives(1, &Message::Stdout(vec![1])).unwrap();
        assert!(host.receives(2, &Message::Stdout(vec![1])).is_err());
        assert!(host.sends(1, &Message::Signal(2)));
    }
}
