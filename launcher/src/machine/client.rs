//! A machine as other commands see it: what they read of it, ask of it, and do to it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use guest_protocol::{Channel, Ending, HostSide, Message, Process};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Signal, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGWINCH};

use super::directory::{existing, one};
use super::event::Event;
use super::exit_record::ExitRecord;
use super::lifecycle::GRACE;
use super::record::{Record, State};
use super::request::{self, ApiRequest, Reply, STREAM, read_line, write_line};
use super::session::{Control, Session};
use super::signals::Signals;
use super::stdio::Stdio;
use super::terminal;
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::host::process::ends_within;
use crate::machine::kept;
use crate::raw_terminal::RawTerminal;

/// How long a supervisor may take to answer a request.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a supervisor may take to clean up after its guest.
const TIDY: Duration = Duration::from_secs(15);
/// The same for a machine with its own disk, which first writes back its data, however long that takes.
const TIDY_A_DISK: Duration = Duration::from_secs(24 * 3600);
/// How often a wait checks whether a signal has arrived.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(200);

/// One machine of this user.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its record, as it was when this was created.
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
    /// No machine has that name.
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

    /// Returns the failure of a command that needs a running machine.
    #[must_use]
    pub(crate) fn not_running(&self) -> Failure {
        let name = &self.record.name;
        match &self.record.state {
            State::Starting => self.failure("it is still starting").with_hint("try again in a moment"),
            State::Failed { reason, .. } => self.failure(format_args!("it does not run: {reason}")),
            _ => self.failure("it does not run").with_hint(format_args!("start it: lamina start {name}")),
        }
    }

    /// Sends a request to its supervisor.
    fn ask(&self, request: &ApiRequest) -> Result<UnixStream, Failure> {
        if !self.record.state.is_active() {
            return Err(self.not_running());
        }
        let path = self.record.socket_directory()?.join(format!("{}.sock", request::SOCKET));
        let stream = connect(&path).map_err(|error| self.unreachable(&path, &error))?;
        write_line(&stream, request).map_err(|error| self.unreachable(&path, &error))?;
        match read_line(&stream) {
            Ok(Reply::Accepted) => {}
            Ok(Reply::Refused(cause)) => return Err(self.failure(cause)),
            Err(error) => return Err(self.unreachable(&path, &error)),
        }
        stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None)).about(path.display())?;
        Ok(stream)
    }

    /// Returns why its supervisor does not answer at `socket`.
    fn unreachable(&self, socket: &Path, error: &io::Error) -> Failure {
        let name = &self.record.name;
        match (error.kind(), &self.record.state) {
            (io::ErrorKind::NotFound, State::Starting) => self.not_running(),
            (io::ErrorKind::NotFound, _) => self
                .failure(format_args!("its socket {} was removed", socket.display()))
                .with_hint(format_args!("try again in a moment: its launcher makes it again; or: lamina stop {name}")),
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, _) => self
                .failure(format_args!("its launcher did not answer within {} s", ANSWER.as_secs()))
                .with_hint(format_args!("end it: lamina kill {name}")),
            _ => self.failure(format_args!("its launcher does not answer: {error}")),
        }
    }

    /// Sends a signal to its command.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn signal(&self, number: u32) -> Result<(), Failure> {
        self.ask(&ApiRequest::Signal(number)).map(drop)
    }

    /// Connects to the input of its command, which was started with an input that stays open.
    ///
    /// # Errors
    /// It does not run, or its command has no such input.
    pub(crate) fn input(&self) -> Result<UnixStream, Failure> {
        self.ask(&ApiRequest::Input)
    }

    /// Starts a process in it, and returns when it runs. Nobody reads its output.
    ///
    /// # Errors
    /// The machine does not run, or the process cannot be started.
    pub(crate) fn spawn(&self, process: Process) -> Result<(), Failure> {
        self.ask(&ApiRequest::Spawn(process)).map(drop)
    }

    /// Stops it: asks its command to end within `timeout`.
    ///
    /// # Errors
    /// It still runs.
    pub(crate) fn stop(&self, timeout: Duration) -> Result<Stopped, Failure> {
        let Some(supervisor) = self.record.supervisor().filter(|_| self.record.state.is_active()) else {
            return Ok(Stopped::Before);
        };
        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        // An ephemeral machine may have been removed by now.
        let Ok(directory) = self.directory() else { return Ok(Stopped::Before) };
        let exit_record = ExitRecord::of(&directory).about(directory.display())?;
        // A supervisor without its socket still receives signals, and SIGTERM means the same.
        let asked = self
            .ask(&ApiRequest::Stop { timeout: milliseconds })
            .map(drop)
            .or_else(|_| pidfd_send_signal(&supervisor, Signal::TERM).about("SIGTERM"));
        let has_a_disk = directory.join(kept::DISK).exists();
        let tidy = if has_a_disk { TIDY_A_DISK } else { TIDY };
        if asked.is_ok() && ends_within(&supervisor, timeout.saturating_add(tidy)) {
            let killed = Some(super::end::KILLED.shell_status());
            let status = exit_record.read().and_then(|state| state.status());
            return Ok(if status == killed { Stopped::Killed } else { Stopped::Asked });
        }
        self.end_supervisor(&supervisor)
    }

    /// Stops it as [`Machine::stop`] does, but sends its command this signal first.
    ///
    /// # Errors
    /// It does not run, or still runs.
    pub(crate) fn stop_by(&self, signal: u32, timeout: Duration) -> Result<Stopped, Failure> {
        self.signal(signal)?;
        match self.record.supervisor() {
            Some(supervisor) if !ends_within(&supervisor, timeout) => self.stop(Duration::ZERO),
            _ => Ok(Stopped::Asked),
        }
    }

    /// Ends it at once, without asking the guest.
    ///
    /// # Errors
    /// It still runs.
    pub(crate) fn kill(&self) -> Result<Stopped, Failure> {
        let Some(supervisor) = self.record.supervisor().filter(|_| self.record.state.is_active()) else {
            return Ok(Stopped::Before);
        };
        if self.ask(&ApiRequest::Kill).is_ok() && ends_within(&supervisor, TIDY) {
            return Ok(Stopped::Killed);
        }
        self.end_supervisor(&supervisor)
    }

    /// Kills a supervisor that does not answer. The kernel ends its helpers with it.
    fn end_supervisor(&self, supervisor: &OwnedFd) -> Result<Stopped, Failure> {
        // Fails if the supervisor has ended in the meantime.
        let _ = pidfd_send_signal(supervisor, Signal::KILL);
        if !ends_within(supervisor, TIDY) {
            return Err(self.failure("its launcher cannot be killed"));
        }
        // Cleans up.
        one(&self.record.name).map(|_| Stopped::Killed)
    }

    /// Waits until it has ended. Returns the exit status of its command.
    ///
    /// # Errors
    /// It was removed before this began, a signal ended the wait, or it still runs at `limit`.
    pub(crate) fn wait(&self, signals: &Signals, limit: Option<Instant>) -> Result<u8, Failure> {
        self.wait_for(&self.watch_end()?, signals, limit)
    }

    /// Returns what will tell how the present run has ended, even if the machine has been removed by then.
    ///
    /// # Errors
    /// It has been removed.
    pub(crate) fn watch_end(&self) -> Result<ExitRecord, Failure> {
        let directory = self.directory()?;
        ExitRecord::of(&directory).about(directory.display())
    }

    /// Waits as [`Machine::wait`] does, for the end of the run that `exit_record` is about.
    ///
    /// # Errors
    /// As for [`Machine::wait`].
    pub(crate) fn wait_for(
        &self,
        exit_record: &ExitRecord,
        signals: &Signals,
        limit: Option<Instant>,
    ) -> Result<u8, Failure> {
        let name = &self.record.name;
        loop {
            let seen = one(name);
            // The record may have been removed by now, or describe the next run.
            let state = match (exit_record.read(), seen) {
                (Some(state), _) => state,
                (None, Ok(record)) if record.state.is_active() => {
                    record.supervisor().map_or(Ok(()), |supervisor| await_end(&supervisor, signals, limit))?;
                    if limit.is_some_and(|limit| Instant::now() >= limit) && exit_record.read().is_none() {
                        return Err(self.failure("it has not ended in time, and still runs"));
                    }
                    continue;
                }
                (None, Ok(record)) => record.state,
                (None, Err(failure)) => exit_record.read().ok_or(failure)?,
            };
            return Ok(state.status().unwrap_or(MACHINE_FAILED));
        }
    }

    /// Writes its record as it was read.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn restore(&self) -> Result<(), Failure> {
        self.record.write(&self.directory()?)
    }

    /// Returns whether it ran when its record was read, and still runs.
    #[must_use]
    pub(crate) fn runs(&self) -> bool {
        self.record.state.is_active() && self.record.supervisor().is_some()
    }

    /// Runs a process in it, with its channels connected to `stdio`. Returns how it ended. The first signal to this
    /// process is passed on to that process. A second signal ends the wait, and so does the deadline after SIGTERM or
    /// SIGHUP.
    ///
    /// # Errors
    /// The machine does not run, or ends before the process does; the process cannot be started, or does not end when
    /// it is told to.
    pub(crate) fn exec(&self, process: Process, stdio: Stdio, signals: Signals) -> Result<Ending, Failure> {
        let terminal = process.terminal.is_some();
        // Without input, the terminal is not in raw mode: Ctrl-C reaches the command as a signal.
        let raw = terminal && stdio.input.is_some();
        let stream = self.ask(&ApiRequest::Exec(process))?;
        let _attended = signals.attend();
        let Signals { events, inbox, .. } = signals;
        let control = Control::new(stream.try_clone().about("api")?, HostSide::with_process(STREAM), events);
        let mut session = Session::attach(STREAM, &control, stdio);
        let raw = raw.then(RawTerminal::enter).and_then(Result::ok);
        control.listen(stream);
        let mut result = Err(self.failure("it ended before the process did").with_status(MACHINE_FAILED));
        let mut over = false;
        // The signal that was passed on, and when the process must have ended.
        let mut told: Option<(i32, Option<Instant>)> = None;
        loop {
            let left = told.and_then(|(_, end)| end).map(|end| end.saturating_duration_since(Instant::now()));
            let event = match left {
                Some(left) => inbox.recv_timeout(left),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match (event, told) {
                (Ok(Event::Control(_, Message::Stdout(bytes), _)), _) => session.output(Channel::Stdout, bytes),
                (Ok(Event::Control(_, Message::Stderr(bytes), _)), _) => session.output(Channel::Stderr, bytes),
                (Ok(Event::Control(_, Message::Credit(Channel::Stdin, bytes), _)), _) => session.credit(bytes),
                (Ok(Event::Control(_, Message::Exited(ending), _)), _) => result = Ok(ending),
                (Ok(Event::Control(_, Message::StartFailed(error), _)), _) => {
                    result = Err(self.failure(error.cause).with_status(error.status));
                }
                (Ok(Event::ControlClosed(_)), _) if !over => {
                    over = true;
                    session.finish();
                }
                (Ok(Event::Flushed) | Err(RecvTimeoutError::Disconnected), _) => break,
                (Ok(Event::Signal(SIGWINCH)), _) if terminal => {
                    control.send(STREAM, Message::Resize(terminal::size()));
                }
                (Ok(Event::Signal(SIGWINCH)), _) => {}
                (Ok(Event::Signal(signal)), None) => {
                    control.send(STREAM, Message::Signal(signal.unsigned_abs()));
                    told = Some((signal, ends(signal).then(|| Instant::now() + GRACE)));
                }
                (Ok(Event::Signal(signal)), Some(_)) | (Err(RecvTimeoutError::Timeout), Some((signal, _))) => {
                    session.finish();
                    result = Err(self.unheeded(signal));
                    break;
                }
                _ => {}
            }
        }
        drop(raw);
        result
    }

    /// Returns the failure for a process that a signal did not end.
    fn unheeded(&self, signal: i32) -> Failure {
        let name = &self.record.name;
        let status = u8::try_from(128 + signal).unwrap_or(MACHINE_FAILED);
        self.failure("the command did not end when it was told to, and may still run")
            .with_hint(format_args!("end the machine: lamina stop {name}"))
            .with_status(status)
    }
}

/// Returns whether a signal means that the process must end, and not only that it is interrupted.
fn ends(signal: i32) -> bool {
    matches!(signal, SIGTERM | SIGHUP)
}

/// Connects to a supervisor's socket, with [`ANSWER`] as the limit of every wait for it, because a process that is
/// stopped (SIGSTOP) still has its socket.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, timeout, Some(ANSWER))?;
    }
    rustix::net::connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

/// Waits until a machine's supervisor has ended, or the limit is reached.
fn await_end(supervisor: &OwnedFd, signals: &Signals, limit: Option<Instant>) -> Result<(), Failure> {
    while !ends_within(supervisor, LOOK_FOR_SIGNALS) && limit.is_none_or(|limit| Instant::now() < limit) {
        signals.check()?;
    }
    Ok(())
}
