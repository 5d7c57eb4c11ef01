//! The server for requests to a machine, see [`super::request`]. Starts further processes in the guest, and passes on
//! their channels.

use std::collections::HashMap;
use std::io::{self, PipeWriter, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use guest_protocol::{Channel, Message, Process, Side, cost};

use super::event::Event;
use super::request::{ApiRequest, Reply, SOCKET, STREAM, read_line, write_line};
use super::session::Control;

/// Accepts requests, and passes the guest's answers to the commands that asked.
#[derive(Debug)]
pub(crate) struct ApiServer {
    /// The channel to the guest, once processes can be started, and the first process.
    guest: OnceLock<(Control, Process)>,
    /// The stream for the next process. 1 and 2 belong to the supervisor.
    next: AtomicU32,
    /// The frames for each command that asked. As many as the windows of its process allow.
    askers: Mutex<HashMap<u32, Sender<Vec<u8>>>>,
    /// Where input for the first process is written, if its input stays open.
    input: OnceLock<PipeWriter>,
    events: Sender<Event>,
}

impl ApiServer {
    pub(crate) fn new(events: Sender<Event>) -> Arc<Self> {
        Arc::new(Self {
            guest: OnceLock::new(),
            next: AtomicU32::new(3),
            askers: Mutex::default(),
            input: OnceLock::new(),
            events,
        })
    }

    /// Starts to accept requests, in separate threads.
    pub(crate) fn open(self: &Arc<Self>, listener: UnixListener) {
        let server = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || {
                    if let Err(error) = server.attend(&stream) {
                        tracing::debug!("{SOCKET}.sock: {error}");
                    }
                });
            }
        });
    }

    /// Notes that the guest can start processes from now on.
    pub(crate) fn ready(&self, control: Control, first: Process) {
        let _ = self.guest.set((control, first));
    }

    /// Takes the end to which input for the first process is written.
    pub(crate) fn take_input(&self, input: PipeWriter) {
        let _ = self.input.set(input);
    }

    /// Passes on what the guest says about a process. The last message ends the connection.
    pub(crate) fn deliver(&self, stream: u32, message: Message) {
        let last = matches!(message, Message::Exited(_) | Message::StartFailed(_));
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = askers.get(&stream)
            && let Ok(frame) = message.into_frame(STREAM)
        {
            let _ = asker.send(frame);
        }
        if last {
            askers.remove(&stream);
        }
    }

    /// Ends all connections after everything that has arrived has been passed on.
    pub(crate) fn close(&self) {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn attend(&self, stream: &UnixStream) -> io::Result<()> {
        match read_line(stream)? {
            ApiRequest::Exec(process) => match self.guest.get() {
                Some((control, first)) => self.exec(beside(first, process), stream, control),
                None => write_line(stream, &Reply::Refused("it is still starting".to_owned())),
            },
            ApiRequest::Spawn(process) => match self.guest.get() {
                Some((control, first)) => self.spawn(beside(first, process), stream, control),
                None => write_line(stream, &Reply::Refused("it is still starting".to_owned())),
            },
            ApiRequest::Input => match self.input.get() {
                Some(input) => {
                    write_line(stream, &Reply::Accepted)?;
                    // Each command that is attached writes in turn.
                    io::copy(&mut &*stream, &mut &*input).map(drop)
                }
                None => write_line(stream, &Reply::Refused("its command has no input".to_owned())),
            },
            other => {
                let _ = self.events.send(Event::Asked(other));
                write_line(stream, &Reply::Accepted)
            }
        }
    }

    /// Starts a process, answers when it runs, and discards its output.
    fn spawn(&self, process: Process, stream: &UnixStream, control: &Control) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = channel();
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        control.send(number, Message::Start(process));
        control.send(number, Message::Stdin(Vec::new()));
        let mut reply = Some(Reply::Refused("it ended before the process was started".to_owned()));
        for frame in answers {
            match Message::read(frame.as_slice(), Side::Guest)?
                .map(|(_, message)| message)
                .ok_or(io::ErrorKind::UnexpectedEof)?
            {
                Message::Started => write_line(stream, &Reply::Accepted).map(|()| reply = None)?,
                Message::StartFailed(error) => reply = Some(Reply::Refused(error.cause)),
                Message::Stdout(bytes) => discard(control, number, Channel::Stdout, &bytes),
                Message::Stderr(bytes) => discard(control, number, Channel::Stderr, &bytes),
                _ => {}
            }
        }
        reply.map_or(Ok(()), |reply| write_line(stream, &reply))
    }

    fn exec(&self, process: Process, stream: &UnixStream, control: &Control) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = channel();
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        write_line(stream, &Reply::Accepted)?;
        control.send(number, Message::Start(process));
        let out = stream.try_clone()?;
        std::thread::spawn(move || answer(&out, answers));
        while let Ok(Some((STREAM, message))) = Message::read(stream, Side::Host) {
            if is_for_a_process(&message) {
                control.send(number, message);
            }
        }
        if self.askers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number).is_some() {
            // The command that asked has ended. To the process, that means a hang-up of its terminal or pipes.
            control.send(number, Message::Signal(signal_hook::consts::SIGHUP as u32));
            control.send(number, Message::Stdin(Vec::new()));
            control.send(number, Message::Close(Channel::Stdout));
            control.send(number, Message::Close(Channel::Stderr));
        }
        Ok(())
    }
}

fn discard(control: &Control, number: u32, channel: Channel, bytes: &[u8]) {
    control.send(number, Message::Credit(channel, cost(bytes.len())));
}

/// Returns a further process, with defaults from the first one.
fn beside(first: &Process, process: Process) -> Process {
    if process.by_init {
        return process;
    }
    Process {
        env: first.env.iter().cloned().chain(process.env).collect(),
        cwd: process.cwd.or_else(|| first.cwd.clone()),
        user: process.user.or_else(|| first.user.clone()),
        privileges: first.privileges.clone(),
        ..process
    }
}

fn answer(mut stream: &UnixStream, answers: Receiver<Vec<u8>>) {
    for frame in answers {
        if stream.write_all(&frame).is_err() {
            break;
        }
    }
    // Ends the reading side as well, which then sees that the process has ended.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Returns whether a command may send this to its process. All other messages are between supervisor and guest.
const fn is_for_a_process(message: &Message) -> bool {
    matches!(
        message,
        Message::Stdin(_) | Message::Credit(..) | Message::Signal(_) | Message::Resize(_) | Message::Close(_)
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use guest_protocol::HostSide;

    use super::*;

    #[test]
    fn answers_reach_those_that_asked_and_the_last_one_ends_the_connection() {
        let (events, _inbox) = channel();
        let api = ApiServer::new(events.clone());
        let (guest, host) = UnixStream::pair().unwrap();
        let first = Process {
            env: vec![("A".into(), "1".into())],
            cwd: Some("/srv".into()),
            user: Some("web".into()),
            ..Process::tool(&["first"])
        };
        api.ready(Control::new(host, HostSide::default(), events), first);
        let (mut client, server) = UnixStream::pair().unwrap();
        let process = Process {
            argv: vec!["x".into()],
            env: vec![("B".into(), "2".into())],
            by_init: false,
            ..Process::tool(&[])
        };
        let process = Process { cwd: Some("/".into()), ..process };
        write_line(&client, &ApiRequest::Exec(process.clone())).unwrap();
        let env = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
        let process = Process { env, user: Some("web".into()), ..process };
        std::thread::scope(|scope| {
            let attending = scope.spawn(|| api.attend(&server));
            assert!(matches!(read_line(&client).unwrap(), Reply::Accepted));
            assert_eq!(Message::read(&guest, Side::Host).unwrap(), Some((3, Message::Start(process))));
            Message::Stdin(b"in".to_vec()).write(STREAM, &client).unwrap();
            Message::PowerOff.write(STREAM, &client).unwrap();
            Message::Signal(2).write(STREAM, &client).unwrap();
            assert_eq!(Message::read(&guest, Side::Host).unwrap(), Some((3, Message::Stdin(b"in".to_vec()))));
            // Only the supervisor may power the guest off.
            assert_eq!(Message::read(&guest, Side::Host).unwrap(), Some((3, Message::Signal(2))));
            api.deliver(3, Message::Stdout(b"out".to_vec()));
            api.deliver(3, Message::Exited(guest_protocol::Ending::Status(3)));
            assert_eq!(Message::read(&client, Side::Guest).unwrap(), Some((STREAM, Message::Stdout(b"out".to_vec()))));
            assert!(matches!(Message::read(&client, Side::Guest).unwrap(), Some((STREAM, Message::Exited(_)))));
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            attending.join().unwrap().unwrap();
        });
    }
}
