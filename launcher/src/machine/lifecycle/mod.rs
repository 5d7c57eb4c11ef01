//! The lifecycle of a machine's run, as a function: [`Lifecycle::step`] takes what happened and when, and returns what to
//! do.
//!
//! It starts nothing, waits for nothing and reads no clock; [`super::supervisor`] does that. The phases:
//!
//! ```text
//! StartingServers -> Booting -> StartingCommand -> WaitingForReady -> Running -> PoweringOff -> Draining -> Ended
//!                                      \_______________\_______________/ \-> Stopping -/
//! ```
//!
//! Every phase before `Draining` changes to it when the engine ends, or to `Ended` if there is nothing to wait for.
//! Each wait has its own deadline, see [`Purpose`].

mod deadline;
mod input;
mod phase;

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM};

use self::deadline::Deadlines;
pub(super) use self::deadline::{GRACE, Purpose};
pub(super) use self::input::{Action, Input};
use self::phase::Asked;
pub(super) use self::phase::Phase;
use super::end::End;
use crate::engine::Exit;
use crate::spec::ready::Ready;

/// What a run depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// When the machine is ready.
    pub(super) ready: Ready,
    /// Whether a process waits until it is.
    pub(super) awaited: bool,
    /// How long that may take.
    pub(super) ready_timeout: Duration,
    /// Whether the command has its own signal that asks it to end. Init knows which one.
    pub(super) has_stop_signal: bool,
}

/// The state of one run.
#[derive(Debug)]
pub(super) struct Lifecycle {
    rules: Rules,
    phase: Phase,
    deadlines: Deadlines,
    /// Why the engine will end, if that is known before it does.
    cause: Option<End>,
    /// A server that has ended while the engine ran, and whether it failed.
    server: Option<(String, bool)>,
    /// The engine gave up, and the failure of a server that made it do so may not have been reported yet.
    server_suspected: bool,
    control_open: bool,
    output_open: bool,
    /// The command has run, or a process has been told that the machine is ready, so a user may know of it.
    known: bool,
}

impl Lifecycle {
    /// Creates a run whose servers are being started.
    pub(super) fn new(rules: Rules, now: Instant) -> Self {
        let mut lifecycle = Self {
            rules,
            phase: Phase::StartingServers,
            deadlines: Deadlines::default(),
            cause: None,
            server: None,
            server_suspected: false,
            control_open: false,
            output_open: false,
            known: false,
        };
        lifecycle.deadlines.set(Purpose::Servers, now);
        lifecycle
    }

    pub(super) const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Returns whether a user may know of the machine, so that it must not disappear.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Returns whether the command has been asked for and is not known to have ended.
    pub(super) const fn has_command(&self) -> bool {
        matches!(self.phase, Phase::StartingCommand | Phase::WaitingForReady | Phase::Running | Phase::Stopping(_))
    }

    /// Returns the next deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Removes and returns a deadline that has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Purpose> {
        self.deadlines.expired(now)
    }

    /// Handles one input.
    pub(super) fn step(&mut self, now: Instant, input: Input) -> Vec<Action> {
        if matches!(self.phase, Phase::Ended(_)) {
            return Vec::new();
        }
        match input {
            Input::ControlOpened => self.control_open = true,
            Input::ControlClosed => {
                self.control_open = false;
                self.settle();
            }
            Input::OutputWritten => {
                self.output_open = false;
                self.settle();
            }
            Input::EngineExited(exit) => return self.engine_exited(now, exit),
            Input::ServerEnded { cause, failed } => self.server_ended(now, cause, failed),
            Input::KernelPanicked if !matches!(self.phase, Phase::Draining(_)) => {
                self.deadlines.set(Purpose::Panic, now);
            }
            Input::Signal(signal) => return self.signal(now, signal),
            Input::Stop(timeout) => return self.stop(now, timeout),
            Input::Kill => return self.kill(now),
            Input::Expired(purpose) => return self.expire(now, purpose),
            Input::StillWriting => self.deadlines.set(Purpose::PowerOff, now),
            said => return self.guest(now, said),
        }
        Vec::new()
    }

    /// Handles what init says.
    fn guest(&mut self, now: Instant, said: Input) -> Vec<Action> {
        match said {
            Input::EngineStarted if self.phase == Phase::StartingServers => {
                self.deadlines.clear(Purpose::Servers);
                self.deadlines.set_to(Purpose::Ready, now, self.rules.ready_timeout);
                self.phase = Phase::Booting;
                Vec::new()
            }
            Input::GuestReady if self.phase == Phase::Booting => {
                self.phase = Phase::StartingCommand;
                self.output_open = true;
                if self.rules.awaited && self.rules.ready == Ready::Root {
                    self.known = true;
                    return vec![Action::TellReady, Action::StartCommand];
                }
                vec![Action::StartCommand]
            }
            Input::CommandStarted if self.has_command() => self.command_started(now),
            Input::PortListens if self.phase == Phase::WaitingForReady => {
                self.deadlines.clear(Purpose::Ready);
                self.phase = Phase::Running;
                vec![Action::TellReady]
            }
            Input::CommandEnded(ending) => self.command_over(now, End::Command(ending)),
            Input::CommandFailed(status, cause) => self.command_over(now, End::NotStarted { status, cause }),
            Input::GuestFailed(cause) => {
                self.cause.get_or_insert(End::Guest(cause));
                self.deadlines.set(Purpose::PowerOff, now);
                Vec::new()
            }
            Input::GuestBroke(cause) => {
                self.cause.get_or_insert(End::Breach(cause));
                self.kill_engine(now)
            }
            // What a guest does after this only takes time.
            Input::Halting => self.kill_engine(now),
            // It came too late or out of order.
            _ => Vec::new(),
        }
    }

    fn command_started(&mut self, now: Instant) -> Vec<Action> {
        self.known = true;
        self.deadlines.clear(Purpose::Ready);
        let mut actions = vec![Action::RecordRunning];
        match (self.rules.ready, &self.phase) {
            (Ready::Port(port), Phase::StartingCommand) if self.rules.awaited => {
                self.deadlines.set_to(Purpose::Ready, now, self.rules.ready_timeout);
                self.phase = Phase::WaitingForReady;
                actions.push(Action::AwaitPort(port));
            }
            (ready, phase) => {
                if *phase == Phase::StartingCommand {
                    self.phase = Phase::Running;
                }
                if !matches!(ready, Ready::Port(_)) {
                    actions.push(Action::TellReady);
                }
            }
        }
        actions
    }

    /// The command has ended, so the machine has nothing left to do.
    fn command_over(&mut self, now: Instant, end: End) -> Vec<Action> {
        if matches!(self.phase, Phase::Draining(_)) {
            // The message arrived only after the engine had ended.
            self.server_suspected = false;
            self.phase = Phase::Draining(end);
            self.settle();
            return Vec::new();
        }
        if !self.has_command() {
            return Vec::new();
        }
        self.deadlines.clear_all();
        self.deadlines.set(Purpose::PowerOff, now);
        self.phase = Phase::PoweringOff(end);
        vec![Action::EndOutput, Action::PowerOff]
    }

    fn engine_exited(&mut self, now: Instant, exit: Exit) -> Vec<Action> {
        let running = self.has_command();
        let (end, actions) = match &self.phase {
            Phase::PoweringOff(end) => (end.clone(), Vec::new()),
            phase => {
                let asked = match phase {
                    Phase::Stopping(Asked::Command) => Some(End::Killed),
                    Phase::Stopping(Asked::Signal(signal)) => Some(End::Interrupted(*signal)),
                    _ => None,
                };
                let end = self.cause.take().or(asked).unwrap_or_else(|| self.end_by_engine(exit, running));
                (end, vec![Action::EndOutput])
            }
        };
        self.deadlines.clear_all();
        self.deadlines.set(Purpose::LastMessages, now);
        self.phase = Phase::Draining(end);
        self.settle();
        actions
    }

    /// Some hypervisors give up when a server fails, and can be seen to end before the server. Then the server is the
    /// reason.
    fn end_by_engine(&mut self, exit: Exit, running: bool) -> End {
        let gave_up = matches!(&exit, Exit::Ended { status, .. } if status.signal().is_none());
        match self.server.take() {
            Some((server, true)) if gave_up => return End::GaveUp { server, exit },
            _ => self.server_suspected = gave_up,
        }
        End::Engine { exit, running }
    }

    /// Ends the run if all messages have arrived, all output is written, and it is known why the engine ended.
    fn settle(&mut self) {
        if let Phase::Draining(end) = &self.phase {
            // A command that is known to have ended sends no more messages.
            let told = matches!(end, End::Command(_) | End::NotStarted { .. });
            if !self.output_open && !self.server_suspected && (told || !self.control_open) {
                self.phase = Phase::Ended(end.clone());
            }
        }
    }

    /// A server ends by itself when the engine ends, and the engine's end is then reported soon. Otherwise the server's
    /// end is the reason: a guest whose share is gone hangs, and waiting would not help.
    fn server_ended(&mut self, now: Instant, cause: String, failed: bool) {
        match self.phase {
            Phase::StartingServers => self.phase = Phase::Ended(End::Server(cause)),
            Phase::Draining(End::Engine { ref exit, .. }) if failed && self.server_suspected => {
                self.server_suspected = false;
                self.phase = Phase::Draining(End::GaveUp { server: cause, exit: exit.clone() });
                self.settle();
            }
            Phase::PoweringOff(_) | Phase::Draining(_) | Phase::Ended(_) => {}
            _ => match &self.server {
                None => {
                    self.server = Some((cause, failed));
                    self.deadlines.set(Purpose::Server, now);
                }
                Some((_, false)) if failed => self.server = Some((cause, failed)),
                Some(_) => {}
            },
        }
    }

    /// The first signal is for the command. A second one, or one when there is no command, ends the machine.
    fn signal(&mut self, now: Instant, signal: i32) -> Vec<Action> {
        if !self.has_command() || matches!(self.phase, Phase::Stopping(Asked::Signal(_))) {
            self.phase = Phase::Ended(End::Interrupted(signal));
            return vec![Action::KillEngine];
        }
        self.phase = Phase::Stopping(Asked::Signal(signal));
        if signal == SIGTERM || signal == SIGHUP {
            self.deadlines.clear(Purpose::Ready);
            self.deadlines.set(Purpose::Command, now);
        }
        // A signal that would end this process asks the command to end with the command's own stop signal.
        vec![match signal {
            SIGINT | SIGTERM | SIGHUP if self.rules.has_stop_signal => Action::StopCommand,
            other => Action::SignalCommand(other),
        }]
    }

    fn stop(&mut self, now: Instant, timeout: Duration) -> Vec<Action> {
        match self.phase {
            _ if self.has_command() => {
                self.phase = Phase::Stopping(Asked::Command);
                self.deadlines.clear(Purpose::Ready);
                self.deadlines.set_to(Purpose::Command, now, timeout);
                vec![Action::StopCommand]
            }
            Phase::StartingServers | Phase::Booting => self.kill(now),
            _ => Vec::new(),
        }
    }

    fn kill(&mut self, now: Instant) -> Vec<Action> {
        if self.phase == Phase::StartingServers {
            self.phase = Phase::Ended(End::Killed);
            return Vec::new();
        }
        self.cause = Some(End::Killed);
        self.kill_engine(now)
    }

    /// Kills the engine. Its end is reported by a later input.
    fn kill_engine(&mut self, now: Instant) -> Vec<Action> {
        if !matches!(self.phase, Phase::Draining(_)) {
            self.deadlines.set(Purpose::Engine, now);
        }
        vec![Action::KillEngine]
    }

    fn expire(&mut self, now: Instant, purpose: Purpose) -> Vec<Action> {
        match purpose {
            Purpose::Servers => {
                self.phase = Phase::Ended(End::Server("a server did not create its socket in time".to_owned()));
            }
            Purpose::Ready => {
                let seconds = self.rules.ready_timeout.as_secs();
                self.phase = Phase::Ended(End::NotReady { seconds, running: self.has_command() });
            }
            Purpose::Command => {
                // The guest can still power off normally.
                self.deadlines.set(Purpose::Kill, now);
                return vec![Action::SignalCommand(SIGKILL)];
            }
            Purpose::Kill | Purpose::PowerOff => {
                self.kill_engine(now);
                return vec![Action::WarnLate, Action::KillEngine];
            }
            Purpose::Panic => return self.kill_engine(now),
            Purpose::Engine => {
                let stuck = || End::Server("its hypervisor was killed, but has not ended".to_owned());
                let end = match &self.phase {
                    Phase::PoweringOff(end) => end.clone(),
                    _ => self.cause.take().unwrap_or_else(stuck),
                };
                self.phase = Phase::Ended(end);
            }
            Purpose::Server => {
                self.phase = Phase::Ended(End::Server(self.server.take().unwrap_or_default().0));
            }
            Purpose::LastMessages => {
                self.control_open = false;
                self.server_suspected = false;
                self.settle();
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
