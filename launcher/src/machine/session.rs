//! One process of the guest, connected to the source of its input and the target of its output.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::Window;
use guest_protocol::{Channel, MAX_CHUNK, Message, WINDOW};

use super::event::Event;
use super::stdio::Stdio;

/// The sending side of a control channel, shared by threads. Sending never waits, because a separate thread writes. So
/// a guest that has stopped reading does not block the thread that must notice that.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    queue: Sender<(u32, Message)>,
    ledger: Arc<Ledger>,
}

impl Control {
    pub(crate) fn new(socket: UnixStream) -> Self {
        let (queue, messages) = channel::<(u32, Message)>();
        std::thread::spawn(move || {
            for (stream, message) in messages {
                if let Err(error) = message.write(stream, &socket) {
                    tracing::debug!("control channel: {error}");
                    return;
                }
            }
        });
        Self { queue, ledger: Arc::default() }
    }

    /// Returns the count of output that the other side has sent.
    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// Sends one message, after those that were sent before. If it cannot be sent, the end of the channel shows it.
    pub(crate) fn send(&self, stream: u32, message: Message) {
        self.ledger.sends(stream, &message);
        let _ = self.queue.send((stream, message));
    }
}

/// Counts the output of processes that has arrived but has not been passed on. It is in our memory, so it must not be
/// larger than the windows.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<u32, [u32; 2]>>);

impl Ledger {
    fn sends(&self, stream: u32, message: &Message) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Start(_) => drop(streams.insert(stream, [0; 2])),
            Message::Credit(channel, bytes) => {
                let under_way = streams.get_mut(&stream).and_then(|stream| stream.get_mut(output(*channel)?));
                if let Some(under_way) = under_way {
                    *under_way = under_way.saturating_sub(*bytes);
                }
            }
            _ => {}
        }
    }

    /// Counts what has arrived.
    ///
    /// # Errors
    /// It is more than the window allows (`InvalidData`).
    fn receives(&self, stream: u32, message: &Message) -> io::Result<()> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (channel, bytes) = match message {
            Message::Stdout(bytes) => (Channel::Stdout, bytes),
            Message::Stderr(bytes) => (Channel::Stderr, bytes),
            Message::Exited(_) | Message::StartFailed(_) => {
                streams.remove(&stream);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let under_way = streams.get_mut(&stream).and_then(|stream| stream.get_mut(output(channel)?));
        let Some(under_way) = under_way else { return Ok(()) };
        *under_way = under_way.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if *under_way <= WINDOW {
            return Ok(());
        }
        let cause = format!("{under_way} bytes of output where there is room for {WINDOW}");
        Err(io::Error::new(io::ErrorKind::InvalidData, cause))
    }
}

/// Returns the index of an output's count.
const fn output(channel: Channel) -> Option<usize> {
    match channel {
        Channel::Stdin => None,
        Channel::Stdout => Some(0),
        Channel::Stderr => Some(1),
    }
}

/// Starts a thread that passes on what the guest says until the channel ends.
pub(crate) fn listen(mut stream: UnixStream, events: Sender<Event>, ledger: Arc<Ledger>) {
    std::thread::spawn(move || {
        let error = loop {
            match Message::read(&mut stream) {
                Ok(Some((number, message))) => {
                    if let Err(error) = ledger.receives(number, &message) {
                        break Some(error);
                    }
                    if events.send(Event::Control(number, message)).is_err() {
                        return;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let _ = events.send(Event::ControlClosed(error));
    });
}

/// A process of the guest whose channels are connected to this process.
#[derive(Debug)]
pub(crate) struct Session {
    /// The window of its standard input.
    stdin: Arc<Window>,
    output: Option<Sender<(Channel, Vec<u8>)>>,
}

impl Session {
    /// Starts to pass on input to the stream `stream`, and the output that [`Session::output`] is called with. When the
    /// output can no longer be written, the process sees a closed pipe.
    pub(crate) fn attach(stream: u32, control: &Control, events: Sender<Event>, stdio: Stdio) -> Self {
        let Stdio { input, mut output } = stdio;
        let stdin = Arc::new(Window::default());
        match input {
            Some(input) => {
                let (window, sender) = (Arc::clone(&stdin), control.clone());
                // Not joined, because a read from a terminal cannot be cancelled.
                std::thread::spawn(move || send_input(stream, input, &window, &sender));
            }
            None => control.send(stream, Message::Stdin(Vec::new())),
        }
        let (sender, chunks) = channel::<(Channel, Vec<u8>)>();
        let control = control.clone();
        std::thread::spawn(move || {
            for (channel, bytes) in chunks {
                let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let answer = match output.take(channel, &bytes) {
                    Ok(()) => Message::Credit(channel, count),
                    Err(error) => {
                        tracing::debug!("output: {error}");
                        Message::Close(channel)
                    }
                };
                control.send(stream, answer);
            }
            // This tells the receiver that the output is complete.
            drop(output);
            let _ = events.send(Event::Flushed);
        });
        Self { stdin, output: Some(sender) }
    }

    /// Passes on what the process wrote, in order, without waiting for it here.
    pub(crate) fn output(&self, channel: Channel, bytes: Vec<u8>) {
        if let Some(output) = &self.output {
            let _ = output.send((channel, bytes));
        }
    }

    /// Notes that the process took input.
    pub(crate) fn credit(&self, bytes: u32) {
        self.stdin.credit(bytes);
    }

    /// Notes that there is no more output. [`Event::Flushed`] follows once all of it is written.
    pub(crate) fn finish(&mut self) {
        self.stdin.close();
        self.output = None;
    }
}

/// Reads only what the guest has room for. So of the input that the command never reads, at most one window is lost for
/// the next reader of the same input.
fn send_input(stream: u32, mut input: Box<dyn Read + Send>, window: &Window, control: &Control) {
    let mut buffer = vec![0; MAX_CHUNK];
    while let Some(room) = window.wait(MAX_CHUNK) {
        match input.read(&mut buffer[..room]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                control.send(stream, Message::Stdin(Vec::new()));
                return;
            }
            Ok(count) => {
                window.spend(count);
                control.send(stream, Message::Stdin(buffer[..count].to_vec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_protocol::{Ending, Process};

    use super::*;

    #[test]
    fn a_guest_that_reads_nothing_holds_up_no_sender() {
        let (_guest, host) = UnixStream::pair().unwrap();
        let control = Control::new(host);
        // Far more than a socket can buffer.
        for _ in 0..1000 {
            control.send(7, Message::Stdin(vec![0; MAX_CHUNK]));
        }
    }

    #[test]
    fn output_beyond_its_window_is_a_breach_and_what_nobody_asked_for_is_not_counted() {
        let ledger = Ledger::default();
        let full = || Message::Stdout(vec![0; WINDOW as usize]);
        ledger.receives(7, &full()).unwrap();
        ledger.sends(7, &Message::Start(Process::tool(&["x"])));
        ledger.receives(7, &full()).unwrap();
        ledger.receives(7, &Message::Stderr(vec![0; 1])).unwrap();
        ledger.sends(7, &Message::Credit(Channel::Stdout, 10));
        ledger.receives(7, &Message::Stdout(vec![0; 10])).unwrap();
        let breach = ledger.receives(7, &Message::Stdout(vec![0; 1])).unwrap_err();
        assert_eq!(breach.kind(), io::ErrorKind::InvalidData);
        ledger.receives(7, &Message::Exited(Ending::Status(0))).unwrap();
        assert!(ledger.0.lock().unwrap().is_empty());
    }
}
