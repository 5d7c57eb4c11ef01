//! What other commands ask of a machine's supervisor, over the socket `api.sock` of that machine.
//!
//! A connection begins with one line of JSON, a [`Request`], which is answered by one line, a [`Reply`]. Behind
//! [`Request::Exec`] both sides go on in the frames of the guest's control channel ([`guest_protocol`]), with
//! [`STREAM`] for the stream: the supervisor only changes that number, so the windows of the process's channels reach
//! from the guest to the command that started it. The connection ends behind the process's last message.
//!
//! Who can connect is who may enter the directory of sockets: its owner.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use guest_protocol::{Channel, Message, Process};
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::session::Control;

/// The name of the socket.
pub(crate) const SOCKET: &str = "api";
/// The stream of the process on a connection.
pub(crate) const STREAM: u32 = 1;
/// The longest request in bytes, as for a message to the guest.
const LONGEST: u64 = guest_protocol::MAX_PAYLOAD as u64;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Start a process beside the machine's first one, with that one's environment, directory and user where it has
    /// none of its own; a tool of init's as it is.
    Exec(Process),
    /// End the first process: by SIGTERM, and by SIGKILL when it has not ended in time.
    Stop {
        /// Milliseconds.
        timeout: u64,
    },
    /// Send a signal to the first process.
    Signal(u32),
    /// End the machine at once.
    Kill,
}

/// Whether it is done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// It is.
    Accepted,
    /// It cannot be, because of this.
    Refused(String),
}

/// Writes one line of JSON.
pub(crate) fn write_line(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line of JSON and not a byte more.
pub(crate) fn read_line<T: for<'de> Deserialize<'de>>(mut from: impl Read) -> io::Result<T> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.extend(byte);
        if line.len() as u64 > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
    }
}

/// Where requests are taken, and the guest's answers are given to whoever asked.
#[derive(Debug)]
pub(crate) struct ApiServer {
    /// The way to the guest, once processes can be started, and the first of them.
    guest: OnceLock<(Control, Process)>,
    /// The stream for the next process; 1 is the first command's.
    next: AtomicU32,
    askers: Mutex<HashMap<u32, Sender<Message>>>,
    events: Sender<Event>,
}

impl ApiServer {
    pub(crate) fn new(events: Sender<Event>) -> Arc<Self> {
        Arc::new(Self { guest: OnceLock::new(), next: AtomicU32::new(2), askers: Mutex::default(), events })
    }

    /// Takes requests from now on, in threads of its own.
    pub(crate) fn open(self: &Arc<Self>, listener: UnixListener) {
        let desk = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let desk = Arc::clone(&desk);
                std::thread::spawn(move || {
                    if let Err(error) = desk.attend(&stream) {
                        tracing::debug!("{SOCKET}.sock: {error}");
                    }
                });
            }
        });
    }

    /// The guest can start processes from now on.
    pub(crate) fn ready(&self, control: Control, first: Process) {
        let _ = self.guest.set((control, first));
    }

    /// Passes on what the guest says of a process; the last message ends the connection.
    pub(crate) fn deliver(&self, stream: u32, message: Message) {
        let last = matches!(message, Message::Exited(_) | Message::StartFailed(_));
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = askers.get(&stream) {
            let _ = asker.send(message);
        }
        if last {
            askers.remove(&stream);
        }
    }

    /// Stdio all connections, once what is under way has been passed on.
    pub(crate) fn close(&self) {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn attend(&self, stream: &UnixStream) -> io::Result<()> {
        match read_line(stream)? {
            Request::Exec(process) => match self.guest.get() {
                Some((control, first)) => self.exec(beside(first, process), stream, control),
                None => write_line(stream, &Reply::Refused("it is still starting".to_owned())),
            },
            other => {
                let _ = self.events.send(Event::Asked(other));
                write_line(stream, &Reply::Accepted)
            }
        }
    }

    fn exec(&self, process: Process, stream: &UnixStream, control: &Control) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = channel();
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        write_line(stream, &Reply::Accepted)?;
        control.send(number, Message::Start(process));
        let out = stream.try_clone()?;
        std::thread::spawn(move || answer(&out, answers));
        while let Ok(Some((STREAM, message))) = Message::read(stream) {
            if is_for_a_process(&message) {
                control.send(number, message);
            }
        }
        if self.askers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number).is_some() {
            // Whoever asked has gone away: for the process, its terminal or its pipes have.
            control.send(number, Message::Signal(signal_hook::consts::SIGHUP as u32));
            control.send(number, Message::Stdin(Vec::new()));
            control.send(number, Message::Close(Channel::Stdout));
            control.send(number, Message::Close(Channel::Stderr));
        }
        Ok(())
    }
}

/// A further process beside the first.
fn beside(first: &Process, process: Process) -> Process {
    if process.by_init {
        return process;
    }
    Process {
        env: first.env.iter().cloned().chain(process.env).collect(),
        cwd: process.cwd.or_else(|| first.cwd.clone()),
        user: process.user.or_else(|| first.user.clone()),
        ..process
    }
}

fn answer(stream: &UnixStream, answers: Receiver<Message>) {
    for message in answers {
        if message.write(STREAM, stream).is_err() {
            break;
        }
    }
    // Stdio the reading side as well, which then sees that the process is over.
    let _ = stream.shutdown(Shutdown::Both);
}

/// What a command may say to its process; all else is between supervisor and guest.
const fn is_for_a_process(message: &Message) -> bool {
    matches!(
        message,
        Message::Stdin(_) | Message::Credit(..) | Message::Signal(_) | Message::Resize(_) | Message::Close(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_not_a_byte_more() {
        let mut wire = Vec::new();
        write_line(&mut wire, &Request::Stop { timeout: 7 }).unwrap();
        wire.extend(b"rest");
        let mut from = wire.as_slice();
        assert!(matches!(read_line(&mut from).unwrap(), Request::Stop { timeout: 7 }));
        assert_eq!(from, b"rest");
        assert!(read_line::<Request>(b"{\"kill\"".as_slice()).is_err());
    }

    #[test]
    fn answers_reach_who_asked_and_the_last_one_ends_the_connection() {
        let (events, _inbox) = channel();
        let desk = ApiServer::new(events);
        let (guest, host) = UnixStream::pair().unwrap();
        let first = Process {
            env: vec![("A".into(), "1".into())],
            cwd: Some("/srv".into()),
            user: Some("web".into()),
            ..Process::tool(&["first"])
        };
        desk.ready(Control::new(host), first);
        let (mut client, server) = UnixStream::pair().unwrap();
        let process = Process {
            argv: vec!["x".into()],
            env: vec![("B".into(), "2".into())],
            by_init: false,
            ..Process::tool(&[])
        };
        let process = Process { cwd: Some("/".into()), ..process };
        write_line(&client, &Request::Exec(process.clone())).unwrap();
        let env = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
        let process = Process { env, user: Some("web".into()), ..process };
        std::thread::scope(|scope| {
            let attending = scope.spawn(|| desk.attend(&server));
            assert!(matches!(read_line(&client).unwrap(), Reply::Accepted));
            assert_eq!(Message::read(&guest).unwrap(), Some((2, Message::Start(process))));
            Message::Stdin(b"in".to_vec()).write(STREAM, &client).unwrap();
            Message::PowerOff.write(STREAM, &client).unwrap();
            Message::Signal(2).write(STREAM, &client).unwrap();
            assert_eq!(Message::read(&guest).unwrap(), Some((2, Message::Stdin(b"in".to_vec()))));
            // Nobody but the supervisor powers the guest off.
            assert_eq!(Message::read(&guest).unwrap(), Some((2, Message::Signal(2))));
            desk.deliver(2, Message::Stdout(b"out".to_vec()));
            desk.deliver(2, Message::Exited(guest_protocol::Ending::Status(3)));
            assert_eq!(Message::read(&client).unwrap(), Some((STREAM, Message::Stdout(b"out".to_vec()))));
            assert!(matches!(Message::read(&client).unwrap(), Some((STREAM, Message::Exited(_)))));
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            attending.join().unwrap().unwrap();
        });
    }
}
