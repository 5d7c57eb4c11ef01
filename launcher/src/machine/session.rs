//! One process of the guest joined to what its input comes from and its output goes to.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_init::protocol::{Channel, MAX_CHUNK, Message};
use guest_init::window::Window;

use super::ends::Ends;
use super::event::Event;

/// The sending side of a control channel, shared by threads.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<Mutex<UnixStream>>);

impl Control {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Sends one message; one that cannot be sent is noticed by the end of the channel.
    pub(crate) fn send(&self, stream: u32, message: Message) {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = message.write(stream, &*socket) {
            tracing::debug!("control channel: {error}");
        }
    }
}

/// Passes on what the guest says until the channel ends, in a thread of its own.
pub(crate) fn listen(mut stream: UnixStream, events: Sender<Event>) {
    std::thread::spawn(move || {
        let error = loop {
            match Message::read(&mut stream) {
                Ok(Some((number, message))) => {
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

/// A process whose channels lead to us.
#[derive(Debug)]
pub(crate) struct Session {
    /// The window of its standard input.
    stdin: Arc<Window>,
    output: Option<Sender<(Channel, Vec<u8>)>>,
}

impl Session {
    /// Starts passing on: input to stream `stream`, and output that [`Session::output`] is given. When nobody
    /// takes the output any more, the process learns of it as it would from a pipe.
    pub(crate) fn attach(stream: u32, control: &Control, events: Sender<Event>, ends: Ends) -> Self {
        let Ends { input, mut output } = ends;
        let stdin = Arc::new(Window::default());
        match input {
            Some(input) => {
                let (window, sender) = (Arc::clone(&stdin), control.clone());
                // Not joined: a read from a terminal cannot be called off.
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
            // What takes it learns here that it was all.
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

    /// No more is to come: [`Event::Flushed`] follows once all is written.
    pub(crate) fn finish(&mut self) {
        self.stdin.close();
        self.output = None;
    }
}

/// Reads only what the guest has room for, so that input that the command never asks for is not lost more
/// than one window deep to whoever reads the same input next.
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
