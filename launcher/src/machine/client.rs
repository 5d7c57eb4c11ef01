//! A machine as other commands see it: what they read of it, ask of it, and do to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use guest_protocol::{Channel, Ending, Message, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use signal_hook::consts::SIGWINCH;

use super::api::{self, Reply, Request, STREAM, read_line, write_line};
use super::directory::{existing, one};
use super::event::Event;
use super::exit_record::ExitRecord;
use super::record::{Record, State};
use super::session::{Control, Session};
use super::signals::Signals;
use super::stdio::Stdio;
use super::{session, terminal};
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::machine::kept_disk;

/// How long a supervisor may take to tidy up after its guest.
const TIDY: Duration = Duration::from_secs(15);
/// The same of a machine that syncs what it wrote to its own disk first, however long that takes.
const TIDY_A_DISK: Duration = Duration::from_secs(24 * 3600);
/// How often one who waits looks whether a signal has come.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(200);

/// One machine of this user.
#[derive(Debug)]
pub(crate) struct Machine {
    /// What is known of it, as it was when it was looked at.
    pub(crate) record: Record,
}

/// How a machine was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It had ended before.
    Before,
    /// Its command ended when asked to.
    Asked,
    /// It had to be killed.
    Killed,
}

impl Machine {
    /// Finds the machine called `name`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(name: &str) -> Result<Self, Failure> {
        Ok(Self { record: one(name)? })
    }

    /// Its directory.
    ///
    /// # Errors
    /// It has been removed.
    pub(crate) fn directory(&self) -> Result<PathBuf, Failure> {
        existing(&self.record.name)
    }

    fn failure(&self, cause: impl std::fmt::Display) -> Failure {
        Failure::new(format_args!("machine {}", self.record.name), cause)
    }

    /// The failure of what needs a machine that runs.
    #[must_use]
    pub(crate) fn not_running(&self) -> Failure {
        let name = &self.record.name;
        match &self.record.state {
            State::Starting => self.failure("it is still starting").with_hint("try again in a moment"),
            State::Failed { reason, .. } => self.failure(format_args!("it does not run: {reason}")),
            _ => self.failure("it does not run").with_hint(format_args!("start it: lamina start {name}")),
        }
    }

    /// Asks its supervisor for something.
    fn ask(&self, request: &Request) -> Result<UnixStream, Failure> {
        if !self.record.state.is_active() {
            return Err(self.not_running());
        }
        let path = self.record.socket_directory()?.join(format!("{}.sock", api::SOCKET));
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.failure("it is still starting").with_hint("try again in a moment"));
            }
            Err(error) => return Err(self.failure(format_args!("its launcher does not answer: {error}"))),
        };
        write_line(&stream, request).about(path.display())?;
        match read_line(&stream) {
            Ok(Reply::Accepted) => Ok(stream),
            Ok(Reply::Refused(cause)) => Err(self.failure(cause)),
            Err(error) => Err(self.failure(format_args!("its launcher does not answer: {error}"))),
        }
    }

    /// Sends a signal to its command.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn signal(&self, number: i32) -> Result<(), Failure> {
        self.ask(&Request::Signal(number.unsigned_abs())).map(drop)
    }

    /// Stdio it: its command is asked to end and given `timeout` to do so.
    ///
    /// # Errors
    /// It is still there.
    pub(crate) fn stop(&self, timeout: Duration) -> Result<Stopped, Failure> {
        let Some(supervisor) = self.record.supervisor().filter(|_| self.record.state.is_active()) else {
            return Ok(Stopped::Before);
        };
        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        // One that goes with its end may have gone by now.
        let Ok(directory) = self.directory() else { return Ok(Stopped::Before) };
        let word = ExitRecord::of(&directory).about(directory.display())?;
        let asked = self.ask(&Request::Stop { timeout: milliseconds });
        let has_a_disk = directory.join(kept_disk::FILE).exists();
        let tidy = if has_a_disk { TIDY_A_DISK } else { TIDY };
        if asked.is_ok() && ends_within(&supervisor, timeout.saturating_add(tidy)) {
            let killed = Some(super::supervisor::KILLED.shell_status());
            let status = word.heard().and_then(|state| state.status());
            return Ok(if status == killed { Stopped::Killed } else { Stopped::Asked });
        }
        self.end_supervisor(&supervisor)
    }

    /// Stdio it at once, asking nobody.
    ///
    /// # Errors
    /// It is still there.
    pub(crate) fn kill(&self) -> Result<Stopped, Failure> {
        let Some(supervisor) = self.record.supervisor().filter(|_| self.record.state.is_active()) else {
            return Ok(Stopped::Before);
        };
        if self.ask(&Request::Kill).is_ok() && ends_within(&supervisor, TIDY) {
            return Ok(Stopped::Killed);
        }
        self.end_supervisor(&supervisor)
    }

    /// What is left when a supervisor does not answer: the kernel ends its helpers with it.
    fn end_supervisor(&self, supervisor: &OwnedFd) -> Result<Stopped, Failure> {
        // Fails for one that has ended meanwhile.
        let _ = pidfd_send_signal(supervisor, Signal::KILL);
        if !ends_within(supervisor, TIDY) {
            return Err(self.failure("its launcher cannot be killed"));
        }
        // Tidies up.
        one(&self.record.name).map(|_| Stopped::Killed)
    }

    /// Waits until it has ended; gives the exit status of its command.
    ///
    /// # Errors
    /// It has been removed before this began, or a signal ended the wait.
    pub(crate) fn wait(&self, signals: &Signals) -> Result<u8, Failure> {
        let name = &self.record.name;
        let directory = self.directory()?;
        let word = ExitRecord::of(&directory).about(directory.display())?;
        loop {
            let seen = one(name);
            // It says of the run that was waited for what the record may say of the next one, or nothing any more.
            let state = match (word.heard(), seen) {
                (Some(state), _) => state,
                (None, Ok(record)) if record.state.is_active() => {
                    record.supervisor().map_or(Ok(()), |supervisor| await_end(&supervisor, signals))?;
                    continue;
                }
                (None, Ok(record)) => record.state,
                (None, Err(failure)) => word.heard().ok_or(failure)?,
            };
            return Ok(state.status().unwrap_or(MACHINE_FAILED));
        }
    }

    /// Writes down that it is as it was when it was looked at.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn restore(&self) -> Result<(), Failure> {
        self.record.write(&self.directory()?)
    }

    /// Whether it still runs as it did when it was looked at.
    #[must_use]
    pub(crate) fn runs(&self) -> bool {
        self.record.state.is_active() && self.record.supervisor().is_some()
    }

    /// Runs a process in it, whose channels lead to `ends`; gives how it ended. Signals to this process are the
    /// other one's.
    ///
    /// # Errors
    /// The machine does not run, or ends before the process does; the process cannot be started.
    pub(crate) fn exec(&self, process: Process, ends: Stdio, signals: Signals) -> Result<Ending, Failure> {
        let terminal = process.terminal.is_some();
        // Without input, keys are for our own terminal: Ctrl-C is the command's by way of the signal.
        let raw = terminal && ends.input.is_some();
        let stream = self.ask(&Request::Exec(process))?;
        let Signals { events, inbox, .. } = signals;
        let control = Control::new(stream.try_clone().about("api")?);
        let mut session = Session::attach(STREAM, &control, events.clone(), ends);
        let raw = raw.then(terminal::Raw::enter).and_then(Result::ok);
        session::listen(stream, events, control.ledger());
        let mut result = Err(self.failure("it ended before the process did").with_status(MACHINE_FAILED));
        let mut over = false;
        for event in inbox {
            match event {
                Event::Control(_, Message::Stdout(bytes)) => session.output(Channel::Stdout, bytes),
                Event::Control(_, Message::Stderr(bytes)) => session.output(Channel::Stderr, bytes),
                Event::Control(_, Message::Credit(Channel::Stdin, bytes)) => session.credit(bytes),
                Event::Control(_, Message::Exited(ending)) => result = Ok(ending),
                Event::Control(_, Message::StartFailed(error)) => {
                    result = Err(self.failure(error.cause).with_status(error.status));
                }
                Event::ControlClosed(_) if !over => {
                    over = true;
                    session.finish();
                }
                Event::Flushed => break,
                Event::Signal(SIGWINCH) if terminal => control.send(STREAM, Message::Resize(terminal::size())),
                Event::Signal(SIGWINCH) => {}
                Event::Signal(signal) => control.send(STREAM, Message::Signal(signal.unsigned_abs())),
                _ => {}
            }
        }
        drop(raw);
        result
    }
}

/// Waits for the end of a machine's supervisor.
fn await_end(supervisor: &OwnedFd, signals: &Signals) -> Result<(), Failure> {
    while !ends_within(supervisor, LOOK_FOR_SIGNALS) {
        signals.check()?;
    }
    Ok(())
}

/// Whether a process ends before so much time has passed.
fn ends_within(process: &OwnedFd, most: Duration) -> bool {
    let end = Instant::now() + most;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            // Interrupted by a signal.
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}
