//! One process of the guest, connected to the source of its input and the target of its output.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::{Channel, HostSide, MAX_CHUNK, Message, Side, Verdict, Window, cost};

use super::event::Event;
use super::outbox::Outbox;
use super::permit::Permits;
use super::stdio::Stdio;

/// The sending side of a control channel, shared by threads. Sending never waits, because a separate thread writes. So
/// a guest that has stopped reading does not block the thread that must notice that.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    outbox: Arc<Outbox>,
    rules: Arc<Mutex<HostSide>>,
    events: Sender<Event>,
    /// It has been said that the guest does not read.
    told: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

impl Control {
    /// Starts to write to `socket`, in a separate thread. `rules` is what the other side may say.
    pub(crate) fn new(socket: UnixStream, rules: HostSide, events: Sender<Event>) -> Self {
        let (outbox, rules) = (Arc::new(Outbox::default()), Arc::new(Mutex::new(rules)));
        let (waiting, kept) = (Arc::clone(&outbox), Arc::clone(&rules));
        std::thread::spawn(move || {
            if let Err(error) = write(&socket, &waiting, &kept) {
                tracing::debug!("control channel: {error}");
                // Nothing more is written, so nothing must wait.
                while let Some(taken) = waiting.take() {
                    taken.frames.iter().for_each(|frame| waiting.written(frame.len()));
                }
            }
        });
        Self(Arc::new(Shared { outbox, rules, events, told: AtomicBool::new(false) }))
    }

    /// Starts a thread that passes on what the guest says until the channel ends or the guest breaks the protocol. It
    /// reads no further while [`MOST_WAITING`](super::permit::MOST_WAITING) messages have not been handled.
    pub(crate) fn listen(&self, mut stream: UnixStream) {
        let (rules, events) = (Arc::clone(&self.0.rules), self.0.events.clone());
        std::thread::spawn(move || {
            let permits = Arc::new(Permits::default());
            let error = loop {
                let (number, message) = match Message::read(&mut stream, Side::Guest) {
                    Ok(Some(read)) => read,
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                };
                let verdict = lock(&rules).receives(number, &message);
                match verdict {
                    Ok(Verdict::Handle) => {
                        if events.send(Event::Control(number, message, Permits::wait(&permits))).is_err() {
                            return;
                        }
                    }
                    Ok(Verdict::Drop) => {}
                    Err(breach) => break Some(io::Error::new(io::ErrorKind::InvalidData, breach)),
                }
            };
            let _ = events.send(Event::ControlClosed(error));
        });
    }

    /// Sends one message, after those that were sent before. Returns whether it will be written: a message for a stream
    /// that has ended is not. If a message cannot be written, the end of the channel shows it.
    pub(crate) fn send(&self, stream: u32, message: Message) -> bool {
        let Shared { outbox, rules, events, told } = &*self.0;
        if let Message::Credit(channel, bytes) = message {
            outbox.add_credit(stream, channel, bytes);
            return true;
        }
        // Locked until the frame waits, so that the messages of two threads are checked in the order in which they are
        // written.
        let mut rules = lock(rules);
        if !rules.sends(stream, &message) {
            return false;
        }
        let frame = match message.into_frame(stream) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!("control channel: {error}");
                return false;
            }
        };
        let has_room = outbox.put(frame);
        if !has_room && !told.swap(true, Ordering::Relaxed) {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it does not read what it is sent");
            let _ = events.send(Event::ControlClosed(Some(error)));
        }
        has_room
    }

    /// Returns how many bytes wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.0.outbox.bytes()
    }
}

fn lock(rules: &Mutex<HostSide>) -> std::sync::MutexGuard<'_, HostSide> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes what is put into the outbox until it is closed. Credit counts as returned when it is written, so a guest that
/// does not read it cannot go on sending.
fn write(mut socket: &UnixStream, outbox: &Outbox, rules: &Mutex<HostSide>) -> io::Result<()> {
    use std::io::Write;
    while let Some(taken) = outbox.take() {
        for (stream, channel, bytes) in taken.credit {
            let credit = Message::Credit(channel, bytes);
            let wanted = lock(rules).sends(stream, &credit);
            if wanted {
                credit.write(stream, socket)?;
            }
        }
        for frame in taken.frames {
            socket.write_all(&frame)?;
            outbox.written(frame.len());
        }
    }
    Ok(())
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
    pub(crate) fn attach(stream: u32, control: &Control, stdio: Stdio) -> Self {
        let events = control.0.events.clone();
        let Stdio { input, mut output, .. } = stdio;
        let stdin = Arc::new(Window::default());
        match input {
            Some(input) => {
                let (window, sender) = (Arc::clone(&stdin), control.clone());
                // Not joined, because a read from a terminal cannot be cancelled.
                std::thread::spawn(move || send_input(stream, input, &window, &sender));
            }
            None => {
                control.send(stream, Message::Stdin(Vec::new()));
            }
        }
        let (sender, chunks) = channel::<(Channel, Vec<u8>)>();
        let control = control.clone();
        std::thread::spawn(move || {
            for (channel, bytes) in chunks {
                let answer = match output.take(channel, &bytes) {
                    Ok(()) => Message::Credit(channel, cost(bytes.len())),
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
    use guest_protocol::{HEADER, MAX_PAYLOAD, Process, WINDOW};

    use super::*;
    use crate::machine::permit::MOST_WAITING;

    fn connected() -> (UnixStream, Control, std::sync::mpsc::Receiver<Event>) {
        let (guest, host) = UnixStream::pair().unwrap();
        let (events, inbox) = channel();
        let control = Control::new(host.try_clone().unwrap(), HostSide::with_process(7), events);
        control.listen(host);
        (guest, control, inbox)
    }

    #[test]
    fn a_guest_that_reads_nothing_holds_up_no_sender_and_is_found_out() {
        let (_guest, control, inbox) = connected();
        assert!(control.send(7, Message::Stdin(vec![0; MAX_CHUNK])));
        assert!(!control.send(8, Message::Signal(15)), "there is no such stream");
        let request = || Message::Start(Process::tool(&["x".repeat(MAX_PAYLOAD / 2).as_str()]));
        let sent = (10..1000).take_while(|&stream| control.send(stream, request())).count();
        assert!(sent < 8, "{sent}");
        assert!(
            matches!(inbox.recv().unwrap(), Event::ControlClosed(Some(error)) if error.to_string().contains("read"))
        );
    }

    #[test]
    fn a_guest_that_sends_without_end_waits_until_it_is_heard() {
        let (guest, _control, inbox) = connected();
        Message::Started.write(7, &guest).unwrap();
        let flood = std::thread::spawn(move || {
            let lengths = (0..3).map(|_| MAX_CHUNK);
            lengths.for_each(|length| Message::Stdout(vec![0; length]).write(7, &guest).unwrap());
            (0..1000).try_for_each(|_| Message::Stderr(vec![0; 1]).write(7, &guest))
        });
        let mut held: Vec<Event> = Vec::new();
        while held.len() < MOST_WAITING {
            held.push(inbox.recv().unwrap());
        }
        assert!(inbox.recv_timeout(std::time::Duration::from_millis(50)).is_err());
        drop(held);
        let heard = inbox.iter().take_while(|event| matches!(event, Event::Control(..))).count();
        assert_eq!(heard, 1004 - MOST_WAITING);
        flood.join().unwrap().unwrap();
    }

    #[test]
    fn a_breach_ends_the_channel_and_credit_that_is_not_read_is_not_returned() {
        let (guest, control, inbox) = connected();
        Message::Started.write(7, &guest).unwrap();
        let fill = || Message::Stdout(vec![0; MAX_CHUNK - HEADER]).write(7, &guest).unwrap();
        (0..WINDOW as usize / MAX_CHUNK).for_each(|_| fill());
        for _ in 0..=WINDOW as usize / MAX_CHUNK {
            assert!(matches!(inbox.recv().unwrap(), Event::Control(7, ..)));
        }
        control.send(7, Message::Credit(Channel::Stdout, cost(10)));
        let credit = Message::read(&guest, Side::Host).unwrap();
        assert_eq!(credit, Some((7, Message::Credit(Channel::Stdout, cost(10)))));
        Message::Stdout(vec![0; 10]).write(7, &guest).unwrap();
        Message::Stdout(vec![0; 1]).write(7, &guest).unwrap();
        assert!(matches!(inbox.recv().unwrap(), Event::Control(7, ..)));
        let Event::ControlClosed(Some(error)) = inbox.recv().unwrap() else { panic!("no breach") };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
