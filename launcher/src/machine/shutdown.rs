//! How the run of a machine ends: by its command, by somebody's word, by a helper's end, or by its time.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use guest_protocol::{Ending, Message};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGWINCH};

use super::api::{self, Request};
use super::ending::{Circumstances, explain};
use super::supervisor::{DiskState, FIRST, Outcome, Overdue, POWER_OFF_DEADLINE, Supervisor};
use super::terminal;
use crate::engine::Exit;
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::host::child;
use crate::machine::kept_disk;

/// How long a command that was told to end may go on.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How long a command may take to end by SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(2);
/// How long a guest whose kernel panicked may take to say all about it and to reset.
const PANIC_DEADLINE: Duration = Duration::from_secs(1);
/// How long the rest of a dead hypervisor's words may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Supervisor {
    pub(super) fn conclude(&self, outcome: &Outcome) -> Result<Ending, Failure> {
        match outcome {
            Outcome::Ended(ending) => Ok(*ending),
            Outcome::StartFailed(status, cause) => {
                Err(Failure::new(format_args!("machine {}", self.order.directory.name()), cause).with_status(*status))
            }
        }
    }

    /// The engine is gone, and with it the guest.
    pub(super) fn engine_ended(&mut self, exit: Exit) {
        self.exit = Some(exit);
        self.deadline = Some((Instant::now() + LAST_WORDS, Overdue::LastWords));
        if self.outcome.is_none()
            && let Some(session) = &mut self.session
        {
            session.finish();
        }
    }

    pub(super) fn note_end(&mut self, number: usize, status: std::process::ExitStatus) -> Result<(), Failure> {
        self.children.note_end(number);
        let mut cause = format!("the server of its {} ended ({status})", self.children.role(number));
        let words = self.children.last_words(number);
        if !words.is_empty() {
            cause.push_str(&format!(": {words}"));
        }
        if self.engine.is_none() {
            return Err(self.failed(&cause));
        }
        self.share_ended(cause);
        Ok(())
    }

    /// The first signal is the command's; a second one, or one before there is a command, ends the machine.
    pub(super) fn signal(&mut self, signal: i32) {
        if signal == SIGWINCH {
            if self.order.process.terminal.is_some() && self.session.is_some() {
                self.say(FIRST, Message::Resize(terminal::size()));
            }
            return;
        }
        if self.session.is_some() && self.interrupted.is_none() && self.outcome.is_none() {
            // What ends us ends the command as it asks to be ended.
            let process = &self.order.process;
            let has_own = process.stop_signal.is_some() || process.is_init_system();
            self.say(
                FIRST,
                match signal {
                    SIGINT | SIGTERM | SIGHUP if has_own => Message::Stop(0),
                    other => Message::Signal(other.unsigned_abs()),
                },
            );
            if signal == SIGTERM || signal == SIGHUP {
                self.deadline = Some((Instant::now() + GRACE, Overdue::Command));
            }
            self.interrupted = Some(signal);
            return;
        }
        self.interrupted = Some(signal);
        self.control = None;
        self.kill_hypervisor();
    }

    /// What another command asks for.
    pub(super) fn asked(&mut self, request: &Request) {
        match *request {
            // The desk answers it itself.
            Request::Exec(_) => {}
            Request::Signal(number) => self.say(FIRST, Message::Signal(number)),
            Request::Stop { timeout } if self.session.is_some() => {
                self.stopping = true;
                if self.outcome.is_none() {
                    self.say(FIRST, Message::Stop(0));
                    self.deadline = Some((Instant::now() + Duration::from_millis(timeout), Overdue::Command));
                }
            }
            Request::Stop { .. } | Request::Kill => {
                self.stopping = true;
                self.kill_hypervisor();
            }
        }
    }

    /// A guest that panics resets itself. One whose reset hangs is ended here.
    pub(super) fn panicked(&mut self) {
        if self.exit.is_none() {
            self.deadline = Some((Instant::now() + PANIC_DEADLINE, Overdue::Panic));
        }
    }

    /// What no event tells: time that has passed, and the end of a server in this process.
    pub(super) fn look_around(&mut self) -> Result<(), Failure> {
        self.restore_api();
        if self.order.root.0.has_ended() {
            self.share_ended("the server of its root ended".to_owned());
        }
        match self.deadline {
            Some((at, _)) if at <= Instant::now() => self.overdue(),
            _ => Ok(()),
        }
    }

    /// Listens again where the directory of sockets was emptied, as the runtime directory is when its user logs out.
    fn restore_api(&self) {
        let path = self.order.directory.socket(api::SOCKET);
        if self.engine.is_none() || path.exists() {
            return;
        }
        let bound = self.order.directory.make_sockets().and_then(|()| UnixListener::bind(&path).about(path.display()));
        match bound {
            Ok(listener) => self.desk.open(listener),
            // Until its user logs in again.
            Err(failure) => tracing::debug!("{failure}"),
        }
    }

    /// A share's server ends by itself when the hypervisor does, whose end is then about to be told. Otherwise
    /// it is the reason: a guest whose share is gone hangs, and nothing can be saved by waiting.
    pub(super) fn share_ended(&mut self, cause: String) {
        if self.exit.is_none() && self.outcome.is_none() && self.share_failure.is_none() {
            self.share_failure = Some(cause);
            self.deadline = Some((Instant::now() + LAST_WORDS, Overdue::Hypervisor));
        }
    }

    fn overdue(&mut self) -> Result<(), Failure> {
        match self.deadline.take() {
            Some((_, Overdue::Ready)) => {
                let seconds = self.order.ready_timeout.as_secs();
                self.console_tells = true;
                let missing =
                    if self.session.is_some() { format!(": not before {}", self.order.ready) } else { String::new() };
                Err(self.failed(&format!("the guest was not ready after {seconds} s{missing}")))
            }
            Some((_, Overdue::Command)) => {
                // The rest of the guest still ends in good order.
                self.say(FIRST, Message::Signal(SIGKILL.unsigned_abs()));
                self.disk_seen = self.disk();
                self.deadline = Some((Instant::now() + KILL_DEADLINE, Overdue::PowerOff));
                Ok(())
            }
            Some((_, Overdue::PowerOff)) if self.still_writes() => {
                self.deadline = Some((Instant::now() + POWER_OFF_DEADLINE, Overdue::PowerOff));
                Ok(())
            }
            Some((_, Overdue::PowerOff)) => {
                let lost =
                    if self.disk_seen.is_some() { ": what it wrote last may be missing on its disk" } else { "" };
                self.order.directory.warn(&format!("it did not end in time and was killed{lost}"));
                self.kill_hypervisor();
                Ok(())
            }
            Some((_, Overdue::Panic)) => {
                self.kill_hypervisor();
                Ok(())
            }
            Some((_, Overdue::Hypervisor)) => {
                let cause = self.share_failure.take().unwrap_or_default();
                Err(self.failed(&cause))
            }
            Some((_, Overdue::LastWords)) => {
                self.open_channels = 0;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The state of the machine's own disk, if it has one.
    pub(super) fn disk(&self) -> Option<DiskState> {
        let file = self.order.directory.file(kept_disk::FILE).metadata().ok()?;
        Some((file.modified().ok()?, file.blocks()))
    }

    /// Whether the guest has written its disk since that was last looked at: it syncs what a command left in its memory.
    fn still_writes(&mut self) -> bool {
        let now = self.disk();
        let before = std::mem::replace(&mut self.disk_seen, now);
        now.is_some() && now != before
    }

    pub(super) fn kill_hypervisor(&self) {
        if let Some(engine) = &self.engine {
            engine.kill();
        }
    }

    pub(super) fn failed(&self, cause: &str) -> Failure {
        Failure::new(format_args!("machine {}", self.order.directory.name()), cause).with_status(MACHINE_FAILED)
    }

    pub(super) fn explain_end(&mut self) -> Failure {
        // Killed from outside, the console has nothing to say of it.
        self.console_tells = match &self.exit {
            Some(Exit::Ended { status, .. }) => status.success(),
            exit => exit.is_some(),
        };
        explain(&Circumstances {
            name: self.order.directory.name(),
            fatal: self.fatal.as_deref(),
            exit: self.exit.as_ref(),
            console: &child::tail(&self.order.engine.1.console, 60),
            running: self.session.is_some(),
        })
    }
}
