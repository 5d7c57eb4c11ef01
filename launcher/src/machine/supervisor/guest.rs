//! Talks to the guest.

use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use guest_protocol::{Channel, Ending, HostSide, MACHINE, Message, VERSION};
use rustix::io::Errno;

use super::{AWAITING, FIRST, Supervisor};
use crate::failure::{About, Failure};
use crate::machine::lifecycle::Input;
use crate::machine::ports::{self, Ports};
use crate::machine::session::{Control, Session};
use crate::machine::{guest_warning, kept, terminal};
use crate::raw_terminal::RawTerminal;

impl Supervisor {
    pub(super) fn connect(&mut self, stream: UnixStream) -> Result<(), Failure> {
        let writing = stream.try_clone().about("control channel")?;
        let control = Control::new(writing, HostSide::default(), self.events.clone());
        control.listen(stream);
        self.control = Some(control);
        self.step(Input::ControlOpened);
        Ok(())
    }

    /// Handles what the guest says.
    pub(super) fn hear(&mut self, stream: u32, message: Message) {
        match (stream, message) {
            (MACHINE, Message::Hello(hello)) if hello.version != VERSION => {
                self.step(Input::GuestBroke(format!("its init speaks version {} of the protocol", hello.version)));
            }
            (MACHINE, Message::Hello(hello)) => {
                tracing::debug!("guest kernel {}", hello.kernel);
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.config.setup.seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                self.config.setup.nanoseconds = now.subsec_nanos();
                for secret in std::mem::take(&mut self.config.secrets) {
                    self.send(MACHINE, Message::Secret(secret));
                }
                self.send(MACHINE, Message::Setup(self.config.setup.clone()));
            }
            (MACHINE, Message::Ready) => self.step(Input::GuestReady),
            (MACHINE, Message::Fatal(cause)) => self.step(Input::GuestFailed(short(&cause))),
            (MACHINE, Message::Halting) => self.step(Input::Halting),
            (MACHINE, Message::Warning(warning)) => {
                let keeps = self.directory.file(kept::DISK).exists();
                self.directory.warn(&guest_warning::text(&warning, keeps));
            }
            (FIRST, Message::Stdout(bytes)) => self.pass_on(Channel::Stdout, bytes),
            (FIRST, Message::Stderr(bytes)) => self.pass_on(Channel::Stderr, bytes),
            (FIRST, Message::Credit(Channel::Stdin, bytes)) => {
                if let Some(session) = &self.session {
                    session.credit(bytes);
                }
            }
            (FIRST, Message::Started) => self.step(Input::CommandStarted),
            // A command that loses its root ends by that, often before the end of the server is reported.
            (FIRST, Message::Exited(_)) if self.config.root.0.is_useless() => self.root_ended(),
            (FIRST, Message::Exited(ending)) => self.step(Input::CommandEnded(ending)),
            (FIRST, Message::StartFailed(error)) => {
                self.step(Input::CommandFailed(error.status, short(&error.cause)));
            }
            (AWAITING, Message::Exited(Ending::Status(0))) => self.step(Input::PortListens),
            (MACHINE | FIRST | AWAITING, _) => {}
            (stream, message) if stream >= ports::FIRST_STREAM => {
                if let Some(ports) = &self.ports {
                    ports.deliver(stream, message);
                }
            }
            (stream, message) => self.api.deliver(stream, message),
        }
    }

    /// Starts to accept clients of the published ports. A machine whose ports cannot be served still runs.
    pub(super) fn open_ports(&mut self) {
        let listeners = std::mem::take(&mut self.config.listeners);
        let Some(control) = &self.control else { return };
        match Ports::open(listeners, control.clone()) {
            Ok(ports) => self.ports = ports,
            Err(failure) => self.directory.warn(&format!("its published ports are closed: {failure}")),
        }
    }

    pub(super) fn start_command(&mut self) {
        if self.config.process.terminal.is_some() {
            self.config.process.terminal = Some(terminal::size());
            // A machine in the background has no terminal.
            let failed = |error: &Errno| {
                if *error != Errno::NOTTY {
                    tracing::warn!("terminal: {error}");
                }
            };
            self.raw = RawTerminal::enter().inspect_err(failed).ok();
        }
        self.send(FIRST, Message::Start(self.config.process.clone()));
        if let (Some(control), Some(mut stdio)) = (&self.control, self.stdio.take()) {
            if let Some(input) = stdio.open_input.take() {
                self.api.take_input(input);
            }
            self.session = Some(Session::attach(FIRST, control, stdio));
            self.api.ready(control.clone(), self.config.process.clone());
        }
    }

    pub(super) fn pass_on(&self, channel: Channel, bytes: Vec<u8>) {
        if let Some(session) = &self.session {
            session.output(channel, bytes);
        }
    }

    pub(super) fn send(&self, stream: u32, message: Message) {
        if let Some(control) = &self.control {
            control.send(stream, message);
        }
    }
}

/// Cuts a guest's reason to a length that people read.
fn short(cause: &str) -> String {
    const MOST: usize = 1000;
    cause.chars().take(MOST).collect()
}
