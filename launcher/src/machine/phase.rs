//! The course of a machine's run, as a function: [`Course::step`] takes what happened and when, and returns what to do.
//!
//! It starts nothing, waits for nothing and reads no clock; [`super::supervisor`] does. The phases:
//!
//! ```text
//! StartingServers -> Booting -> StartingCommand -> WaitingForReady -> Running -> PoweringOff -> Draining -> Ended
//!                                      \_______________\_______________/ \-> Stopping -/
//! ```
//!
//! Every phase before `Draining` goes there when the engine ends, and to `Ended` when there is nothing to wait for. Each
//! wait has a deadline of its own, see [`Purpose`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guest_protocol::Ending;
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM};

use super::end::End;
use crate::engine::Exit;
use crate::spec::ready::Ready;

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The servers of the root, the shares and the network are starting.
    StartingServers,
    /// The engine runs. The guest's init has not entered the root yet.
    Booting,
    /// Init has been told to start the command.
    StartingCommand,
    /// The command runs, and a tool in the guest waits for what makes the machine ready.
    WaitingForReady,
    /// The command runs.
    Running,
    /// The command has been told to end, or got a signal that this process got.
    Stopping(Asked),
    /// The command is over. The guest writes back what is dirty and powers off.
    PoweringOff(End),
    /// The engine has ended. Messages that are under way may still say how the command ended, and the command's output
    /// is being written.
    Draining(End),
    /// Nothing is left to wait for.
    Ended(End),
}

/// Who wants the command to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Another command, such as `lamina stop`.
    Request,
    /// A signal to this process.
    Signal(i32),
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// The servers make their sockets.
    Servers,
    /// The guest becomes ready.
    Ready,
    /// The command ends after it was told to.
    Command,
    /// The command ends after SIGKILL.
    Kill,
    /// The guest powers off.
    PowerOff,
    /// A guest whose kernel panicked writes why, and resets.
    Panic,
    /// The engine ends after it was killed.
    Engine,
    /// The engine ends after a server that it uses has ended: then the engine's end is the reason.
    Server,
    /// What the guest said before the engine ended arrives.
    LastMessages,
}

impl Purpose {
    /// How long it may take. Two are the user's to set: [`Purpose::Ready`] by `--ready-timeout`, and
    /// [`Purpose::Command`] by `stop --timeout`, which is this only for a signal.
    const fn default(self) -> Duration {
        match self {
            Self::Servers | Self::Command | Self::PowerOff | Self::Engine => Duration::from_secs(10),
            Self::Ready => Duration::from_secs(120),
            Self::Kill => Duration::from_secs(2),
            Self::Panic => Duration::from_secs(1),
            Self::Server | Self::LastMessages => Duration::from_millis(500),
        }
    }
}

/// How long a command may take to end after a signal to this process.
pub(super) const GRACE: Duration = Purpose::Command.default();

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The servers have made their sockets, and the engine has been started.
    EngineStarted,
    /// The control channel to the guest is there.
    ControlOpened,
    /// The control channel has ended.
    ControlClosed,
    /// Init has entered the root.
    GuestReady,
    /// Init has started the command.
    CommandStarted,
    /// The command has ended.
    CommandEnded(Ending),
    /// The command could not be started: the exit status that this gives, and why.
    CommandFailed(u8, String),
    /// Something listens on the port that makes the machine ready.
    PortListens,
    /// Init cannot go on, and powers off.
    GuestFailed(String),
    /// The guest does not keep to the protocol.
    GuestBroke(String),
    /// Everything is on the guest's disks.
    Halting,
    /// The guest's kernel panicked.
    KernelPanicked,
    /// The engine has ended.
    EngineExited(Exit),
    /// A server that the guest uses has ended; which, and how.
    ServerEnded(String),
    /// All output of the command has been written.
    OutputWritten,
    /// This process got a signal.
    Signal(i32),
    /// Another command wants the command to end within this time.
    Stop(Duration),
    /// Another command wants the machine to end at once.
    Kill,
    /// A deadline has passed.
    Expired(Purpose),
    /// The deadline to power off has passed, but the guest still writes to its disk.
    StillWriting,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Tell init to start the command.
    StartCommand,
    /// Write down that the command runs.
    RecordRunning,
    /// Have a tool in the guest wait until something listens on this port.
    AwaitPort(u16),
    /// Tell the process that started the machine that it is ready.
    TellReady,
    /// Ask the command to end, by its own signal.
    StopCommand,
    /// Send a signal to the command.
    SignalCommand(i32),
    /// No more output follows: write what is left.
    EndOutput,
    /// Tell the guest to power off.
    PowerOff,
    /// Warn that the guest did not end in time.
    WarnLate,
    /// Kill the engine.
    KillEngine,
}

/// What a run depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// When the machine is ready.
    pub(super) ready: Ready,
    /// Whether a process waits until it is.
    pub(super) awaited: bool,
    /// How long that may take.
    pub(super) ready_timeout: Duration,
    /// Whether the command has a signal of its own that asks it to end. Init knows which.
    pub(super) has_stop_signal: bool,
}

/// The course of one run.
#[derive(Debug)]
pub(super) struct Course {
    rules: Rules,
    phase: Phase,
    deadlines: BTreeMap<Purpose, Instant>,
    /// Why the engine is about to end, if that is known before it does.
    cause: Option<End>,
    /// A server that has ended while the engine ran.
    server: Option<String>,
    control_open: bool,
    output_open: bool,
    /// The command has run, or a process has been told that the machine is ready: it is known to somebody.
    known: bool,
}

impl Course {
    /// A run whose servers are being started.
    pub(super) fn new(rules: Rules, now: Instant) -> Self {
        let mut course = Self {
            rules,
            phase: Phase::StartingServers,
            deadlines: BTreeMap::new(),
            cause: None,
            server: None,
            control_open: false,
            output_open: false,
            known: false,
        };
        course.set(Purpose::Servers, now);
        course
    }

    pub(super) const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether somebody knows of the machine, so that it must not disappear.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Whether the command has been asked for and is not known to be over.
    pub(super) const fn has_command(&self) -> bool {
        matches!(self.phase, Phase::StartingCommand | Phase::WaitingForReady | Phase::Running | Phase::Stopping(_))
    }

    /// The next deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.values().min().copied()
    }

    /// Takes out a deadline that has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Purpose> {
        let (&purpose, _) = self.deadlines.iter().find(|&(_, &at)| at <= now)?;
        self.deadlines.remove(&purpose);
        Some(purpose)
    }

    fn set(&mut self, purpose: Purpose, now: Instant) {
        self.set_to(purpose, now, purpose.default());
    }

    fn set_to(&mut self, purpose: Purpose, now: Instant, most: Duration) {
        // An instant that the clock cannot hold is never.
        if let Some(at) = now.checked_add(most) {
            self.deadlines.insert(purpose, at);
        }
    }

    fn clear(&mut self, purpose: Purpose) {
        self.deadlines.remove(&purpose);
    }

    /// Goes on by one input.
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
            Input::ServerEnded(cause) => self.server_ended(now, cause),
            Input::KernelPanicked if !matches!(self.phase, Phase::Draining(_)) => self.set(Purpose::Panic, now),
            Input::Signal(signal) => return self.signal(now, signal),
            Input::Stop(timeout) => return self.stop(now, timeout),
            Input::Kill => return self.kill(now),
            Input::Expired(purpose) => return self.expire(now, purpose),
            Input::StillWriting => self.set(Purpose::PowerOff, now),
            said => return self.guest(now, said),
        }
        Vec::new()
    }

    /// What init says.
    fn guest(&mut self, now: Instant, said: Input) -> Vec<Action> {
        match said {
            Input::EngineStarted if self.phase == Phase::StartingServers => {
                self.clear(Purpose::Servers);
                self.set_to(Purpose::Ready, now, self.rules.ready_timeout);
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
                self.clear(Purpose::Ready);
                self.phase = Phase::Running;
                vec![Action::TellReady]
            }
            Input::CommandEnded(ending) => self.command_over(now, End::Command(ending)),
            Input::CommandFailed(status, cause) => self.command_over(now, End::NotStarted { status, cause }),
            Input::GuestFailed(cause) => {
                self.cause.get_or_insert(End::Guest(cause));
                self.set(Purpose::PowerOff, now);
                Vec::new()
            }
            Input::GuestBroke(cause) => {
                self.cause.get_or_insert(End::Breach(cause));
                self.kill_engine(now)
            }
            // What a guest does after this only takes time.
            Input::Halting => self.kill_engine(now),
            // It came too late, or out of turn.
            _ => Vec::new(),
        }
    }

    fn command_started(&mut self, now: Instant) -> Vec<Action> {
        self.known = true;
        self.clear(Purpose::Ready);
        let mut actions = vec![Action::RecordRunning];
        match (self.rules.ready, &self.phase) {
            (Ready::Port(port), Phase::StartingCommand) if self.rules.awaited => {
                self.set_to(Purpose::Ready, now, self.rules.ready_timeout);
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

    /// The command is over: the machine has nothing left to do.
    fn command_over(&mut self, now: Instant, end: End) -> Vec<Action> {
        if matches!(self.phase, Phase::Draining(_)) {
            // It was under way when the engine ended.
            self.phase = Phase::Draining(end);
            self.settle();
            return Vec::new();
        }
        if !self.has_command() {
            return Vec::new();
        }
        self.deadlines.clear();
        self.set(Purpose::PowerOff, now);
        self.phase = Phase::PoweringOff(end);
        vec![Action::EndOutput, Action::PowerOff]
    }

    fn engine_exited(&mut self, now: Instant, exit: Exit) -> Vec<Action> {
        let running = self.has_command();
        let (end, actions) = match &self.phase {
            Phase::PoweringOff(end) => (end.clone(), Vec::new()),
            phase => {
                let asked = match phase {
                    Phase::Stopping(Asked::Request) => Some(End::Killed),
                    Phase::Stopping(Asked::Signal(signal)) => Some(End::Interrupted(*signal)),
                    _ => None,
                };
                let end = self.cause.take().or(asked).unwrap_or(End::Engine { exit, running });
                (end, vec![Action::EndOutput])
            }
        };
        self.deadlines.clear();
        self.set(Purpose::LastMessages, now);
        self.phase = Phase::Draining(end);
        self.settle();
        actions
    }

    /// Ends the run if all that was under way has arrived and is written.
    fn settle(&mut self) {
        if let Phase::Draining(end) = &self.phase {
            // A command that is known to be over says nothing more.
            let told = matches!(end, End::Command(_) | End::NotStarted { .. });
            if !self.output_open && (told || !self.control_open) {
                self.phase = Phase::Ended(end.clone());
            }
        }
    }

    /// A server ends by itself when the engine does, whose end is then about to be told. Otherwise it is the reason: a
    /// guest whose share is gone hangs, and waiting saves nothing.
    fn server_ended(&mut self, now: Instant, cause: String) {
        match self.phase {
            Phase::StartingServers => self.phase = Phase::Ended(End::Server(cause)),
            Phase::PoweringOff(_) | Phase::Draining(_) | Phase::Ended(_) => {}
            _ if self.server.is_none() => {
                self.server = Some(cause);
                self.set(Purpose::Server, now);
            }
            _ => {}
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
            self.clear(Purpose::Ready);
            self.set(Purpose::Command, now);
        }
        // What ends this process ends the command in the way that the command wants.
        vec![match signal {
            SIGINT | SIGTERM | SIGHUP if self.rules.has_stop_signal => Action::StopCommand,
            other => Action::SignalCommand(other),
        }]
    }

    fn stop(&mut self, now: Instant, timeout: Duration) -> Vec<Action> {
        match self.phase {
            _ if self.has_command() => {
                self.phase = Phase::Stopping(Asked::Request);
                self.clear(Purpose::Ready);
                self.set_to(Purpose::Command, now, timeout);
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

    /// Its end is an input of its own.
    fn kill_engine(&mut self, now: Instant) -> Vec<Action> {
        if !matches!(self.phase, Phase::Draining(_)) {
            self.set(Purpose::Engine, now);
        }
        vec![Action::KillEngine]
    }

    fn expire(&mut self, now: Instant, purpose: Purpose) -> Vec<Action> {
        match purpose {
            Purpose::Servers => {
                self.phase = Phase::Ended(End::Server("a server did not make its socket in time".to_owned()));
            }
            Purpose::Ready => {
                let seconds = self.rules.ready_timeout.as_secs();
                self.phase = Phase::Ended(End::NotReady { seconds, running: self.has_command() });
            }
            Purpose::Command => {
                // The rest of the guest still ends in good order.
                self.set(Purpose::Kill, now);
                return vec![Action::SignalCommand(SIGKILL)];
            }
            Purpose::Kill | Purpose::PowerOff => {
                self.kill_engine(now);
                return vec![Action::WarnLate, Action::KillEngine];
            }
            Purpose::Panic => return self.kill_engine(now),
            Purpose::Engine => {
                let stuck = || End::Server("its hypervisor was killed, but the kernel still holds it".to_owned());
                let end = match &self.phase {
                    Phase::PoweringOff(end) => end.clone(),
                    _ => self.cause.take().unwrap_or_else(stuck),
                };
                self.phase = Phase::Ended(end);
            }
            Purpose::Server => {
                self.phase = Phase::Ended(End::Server(self.server.take().unwrap_or_default()));
            }
            Purpose::LastMessages => {
                self.control_open = false;
                self.settle();
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use signal_hook::consts::SIGQUIT;

    use super::*;

    /// A run at a clock of its own.
    struct Run {
        course: Course,
        now: Instant,
    }

    impl Run {
        fn new(rules: Rules) -> Self {
            let now = Instant::now();
            Self { course: Course::new(rules, now), now }
        }

        fn plain() -> Self {
            Self::new(Rules {
                ready: Ready::Exec,
                awaited: true,
                ready_timeout: Duration::from_secs(60),
                has_stop_signal: false,
            })
        }

        /// One whose command runs.
        fn running() -> Self {
            let mut run = Self::plain();
            run.all([Input::EngineStarted, Input::ControlOpened, Input::GuestReady, Input::CommandStarted]);
            assert_eq!(run.course.phase(), &Phase::Running);
            run
        }

        fn step(&mut self, input: Input) -> Vec<Action> {
            self.course.step(self.now, input)
        }

        fn all(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
            inputs.into_iter().flat_map(|input| self.step(input)).collect()
        }

        /// Lets the next deadline pass.
        fn wait(&mut self) -> (Purpose, Vec<Action>) {
            self.now = self.course.next_deadline().expect("a deadline");
            let purpose = self.course.expired(self.now).expect("a deadline that has passed");
            (purpose, self.step(Input::Expired(purpose)))
        }

        fn end(&self) -> &End {
            let Phase::Ended(end) = self.course.phase() else { panic!("{:?}", self.course.phase()) };
            end
        }
    }

    fn killed() -> Exit {
        Exit::Ended { status: ExitStatus::from_raw(9), words: String::new() }
    }

    #[test]
    fn a_command_runs_and_its_end_ends_the_machine() {
        let mut run = Run::plain();
        assert_eq!(run.all([Input::EngineStarted, Input::ControlOpened, Input::GuestReady]), [Action::StartCommand]);
        assert!(!run.course.is_known());
        assert_eq!(run.step(Input::CommandStarted), [Action::RecordRunning, Action::TellReady]);
        assert!(run.course.is_known() && run.course.next_deadline().is_none(), "a command may run for any time");
        let over = run.step(Input::CommandEnded(Ending::Status(3)));
        assert_eq!(over, [Action::EndOutput, Action::PowerOff]);
        assert_eq!(run.step(Input::Halting), [Action::KillEngine]);
        assert_eq!(run.all([Input::EngineExited(killed()), Input::OutputWritten]), []);
        assert_eq!(run.end(), &End::Command(Ending::Status(3)));
    }

    #[test]
    fn the_guest_must_be_ready_in_time_whatever_that_means() {
        let mut run = Run::plain();
        run.step(Input::EngineStarted);
        assert_eq!(run.wait().0, Purpose::Ready);
        assert_eq!(run.end(), &End::NotReady { seconds: 60, running: false });
        let rules = Rules { ready: Ready::Port(80), ..run.course.rules };
        let started = [Input::EngineStarted, Input::ControlOpened, Input::GuestReady, Input::CommandStarted];
        let mut run = Run::new(rules);
        assert_eq!(run.all(started.clone())[1..], [Action::RecordRunning, Action::AwaitPort(80)]);
        assert_eq!(run.course.phase(), &Phase::WaitingForReady);
        assert_eq!(run.step(Input::PortListens), [Action::TellReady]);
        assert_eq!((run.course.phase(), run.course.next_deadline()), (&Phase::Running, None));
        let mut run = Run::new(rules);
        run.all(started.clone());
        run.wait();
        assert_eq!(run.end(), &End::NotReady { seconds: 60, running: true });
        // Nobody waits: the port does not matter.
        let mut run = Run::new(Rules { awaited: false, ..rules });
        assert_eq!(run.all(started.clone())[1..], [Action::RecordRunning]);
        let mut run = Run::new(Rules { ready: Ready::Root, ..rules });
        assert_eq!(run.all(started)[..2], [Action::TellReady, Action::StartCommand]);
    }

    #[test]
    fn the_first_signal_is_the_commands_and_the_second_ends_the_machine() {
        for (signal, has_deadline) in [(SIGINT, false), (SIGQUIT, false), (SIGTERM, true), (SIGHUP, true)] {
            let mut run = Run::running();
            assert_eq!(run.step(Input::Signal(signal)), [Action::SignalCommand(signal)]);
            assert_eq!(run.course.next_deadline().is_some(), has_deadline);
            assert_eq!(run.step(Input::Signal(SIGINT)), [Action::KillEngine]);
            assert_eq!(run.end(), &End::Interrupted(SIGINT));
        }
        for before in [vec![], vec![Input::EngineStarted]] {
            let mut run = Run::plain();
            run.all(before);
            run.step(Input::Signal(SIGTERM));
            assert_eq!(run.end(), &End::Interrupted(SIGTERM), "there is no command yet");
        }
        // A command that ends by a signal as it likes has its own end.
        let mut run = Run::running();
        run.all([Input::Signal(SIGTERM), Input::CommandEnded(Ending::Status(0))]);
        run.all([Input::EngineExited(Exit::PoweredOff), Input::OutputWritten]);
        assert_eq!(run.end(), &End::Command(Ending::Status(0)));
        // A second signal ends also what waits for a reader of the output.
        let mut run = Run::running();
        run.all([Input::CommandEnded(Ending::Status(0)), Input::EngineExited(Exit::PoweredOff), Input::Signal(SIGINT)]);
        assert_eq!(run.end(), &End::Interrupted(SIGINT));
    }

    #[test]
    fn the_stop_signal_asks_the_command_to_end() {
        let (int, term, quit) =
            (Action::SignalCommand(SIGINT), Action::SignalCommand(SIGTERM), Action::SignalCommand(SIGQUIT));
        for (input, with, without) in [
            (Input::Stop(GRACE), Action::StopCommand, Action::StopCommand),
            (Input::Signal(SIGTERM), Action::StopCommand, term),
            (Input::Signal(SIGINT), Action::StopCommand, int),
            (Input::Signal(SIGQUIT), quit, quit),
        ] {
            for (has_stop_signal, expected) in [(true, with), (false, without)] {
                let mut run = Run::running();
                run.course.rules.has_stop_signal = has_stop_signal;
                assert_eq!(run.step(input.clone()), [expected]);
            }
        }
    }

    #[test]
    fn a_command_that_does_not_stop_is_killed_and_then_its_guest_is() {
        let mut run = Run::running();
        run.step(Input::Stop(Duration::from_secs(5)));
        assert_eq!(run.wait(), (Purpose::Command, vec![Action::SignalCommand(SIGKILL)]));
        assert_eq!(run.wait(), (Purpose::Kill, vec![Action::WarnLate, Action::KillEngine]));
        run.all([Input::EngineExited(killed()), Input::OutputWritten, Input::ControlClosed]);
        assert_eq!(run.end(), &End::Killed);
        // By a signal it is the signal's end.
        let mut run = Run::running();
        run.step(Input::Signal(SIGTERM));
        run.wait();
        run.wait();
        assert_eq!(run.course.next_deadline(), run.now.checked_add(Purpose::Engine.default()));
        run.all([Input::EngineExited(killed()), Input::OutputWritten, Input::ControlClosed]);
        assert_eq!(run.end(), &End::Interrupted(SIGTERM));
    }

    #[test]
    fn a_guest_that_writes_its_disk_may_take_its_time_to_power_off() {
        let mut run = Run::running();
        run.step(Input::CommandEnded(Ending::Status(0)));
        for _ in 0..3 {
            run.now = run.course.next_deadline().unwrap();
            assert_eq!(run.course.expired(run.now), Some(Purpose::PowerOff));
            assert_eq!(run.step(Input::StillWriting), []);
        }
        assert_eq!(run.wait(), (Purpose::PowerOff, vec![Action::WarnLate, Action::KillEngine]));
        run.all([Input::EngineExited(killed()), Input::OutputWritten]);
        assert_eq!(run.end(), &End::Command(Ending::Status(0)), "it had ended");
    }

    #[test]
    fn the_end_of_the_engine_is_the_end_unless_the_command_said_how_it_ended() {
        let ended = |exit: &Exit| [Input::EngineExited(exit.clone()), Input::OutputWritten];
        for exit in [Exit::PoweredOff, Exit::Rebooted, Exit::Panicked, killed()] {
            let mut run = Run::running();
            run.all(ended(&exit));
            assert!(matches!(run.course.phase(), Phase::Draining(_)), "its last message may be under way");
            run.step(Input::ControlClosed);
            assert_eq!(run.end(), &End::Engine { exit: exit.clone(), running: true });
            let mut run = Run::plain();
            run.all([Input::EngineStarted, Input::EngineExited(exit.clone())]);
            assert_eq!(run.end(), &End::Engine { exit, running: false });
        }
        let mut run = Run::running();
        run.all(ended(&Exit::PoweredOff));
        run.step(Input::CommandEnded(Ending::Status(7)));
        assert_eq!(run.end(), &End::Command(Ending::Status(7)));
        // The channel may never close.
        let mut run = Run::running();
        run.all(ended(&killed()));
        assert_eq!(run.wait().0, Purpose::LastMessages);
        assert_eq!(run.end(), &End::Engine { exit: killed(), running: true });
    }

    #[test]
    fn what_ends_the_guest_is_the_reason_and_not_that_its_engine_ended() {
        let over = |run: &mut Run| {
            run.all([Input::EngineExited(killed()), Input::OutputWritten, Input::ControlClosed]);
        };
        let mut run = Run::running();
        assert_eq!(run.step(Input::GuestFailed("no root".into())), []);
        over(&mut run);
        assert_eq!(run.end(), &End::Guest("no root".into()));
        let mut run = Run::running();
        assert_eq!(run.step(Input::GuestBroke("nonsense".into())), [Action::KillEngine]);
        over(&mut run);
        assert_eq!(run.end(), &End::Breach("nonsense".into()));
        let mut run = Run::running();
        assert_eq!(run.step(Input::Kill), [Action::KillEngine]);
        over(&mut run);
        assert_eq!(run.end(), &End::Killed);
        let mut run = Run::running();
        run.step(Input::KernelPanicked);
        assert_eq!(run.wait(), (Purpose::Panic, vec![Action::KillEngine]));
    }

    #[test]
    fn a_server_that_ends_ends_the_machine_unless_the_engine_ended_first() {
        let gone = || Input::ServerEnded("share1 ended".into());
        let mut run = Run::plain();
        run.step(gone());
        assert_eq!(run.end(), &End::Server("share1 ended".into()));
        let mut run = Run::running();
        run.step(gone());
        assert_eq!(run.wait().0, Purpose::Server);
        assert_eq!(run.end(), &End::Server("share1 ended".into()));
        let mut run = Run::running();
        run.all([gone(), Input::EngineExited(killed()), Input::OutputWritten, Input::ControlClosed]);
        assert_eq!(run.end(), &End::Engine { exit: killed(), running: true });
        let mut run = Run::running();
        run.all([Input::CommandEnded(Ending::Status(1)), gone()]);
        assert!(matches!(run.course.phase(), Phase::PoweringOff(_)));
        let mut run = Run::plain();
        assert_eq!(run.wait().0, Purpose::Servers);
        assert!(matches!(run.end(), End::Server(_)));
    }

    #[test]
    fn no_input_in_any_phase_leaves_a_wait_without_an_end_but_that_of_a_command() {
        let inputs = || {
            [
                Input::EngineStarted,
                Input::ControlOpened,
                Input::ControlClosed,
                Input::GuestReady,
                Input::CommandStarted,
                Input::CommandEnded(Ending::Status(0)),
                Input::CommandFailed(127, "x".into()),
                Input::PortListens,
                Input::GuestFailed("x".into()),
                Input::Halting,
                Input::KernelPanicked,
                Input::EngineExited(Exit::PoweredOff),
                Input::ServerEnded("x".into()),
                Input::OutputWritten,
                Input::Signal(SIGTERM),
                Input::Stop(GRACE),
                Input::Kill,
            ]
        };
        for first in inputs() {
            for second in inputs() {
                for third in inputs() {
                    let mut run = Run::plain();
                    let said = [first.clone(), second.clone(), third.clone()];
                    run.all(said.clone());
                    let bounded = match run.course.phase() {
                        // A command may run for any time, and a reader of its output may be slow.
                        Phase::Running | Phase::Draining(_) | Phase::Ended(_) => true,
                        _ => run.course.next_deadline().is_some(),
                    };
                    assert!(bounded, "{said:?} leads to {:?}", run.course);
                }
            }
        }
    }
}
