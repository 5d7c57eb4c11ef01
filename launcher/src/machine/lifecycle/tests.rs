use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use guest_protocol::Ending;
use signal_hook::consts::SIGQUIT;

use super::*;

/// A run with its own clock.
struct Run {
    lifecycle: Lifecycle,
    now: Instant,
}

impl Run {
    fn new(rules: Rules) -> Self {
        let now = Instant::now();
        Self { lifecycle: Lifecycle::new(rules, now), now }
    }

    fn plain() -> Self {
        Self::new(Rules {
            ready: Ready::Exec,
            awaited: true,
            ready_timeout: Duration::from_secs(60),
            has_stop_signal: false,
        })
    }

    /// Creates a run whose command runs.
    fn running() -> Self {
        let mut run = Self::plain();
        run.all([Input::EngineStarted, Input::ControlOpened, Input::GuestReady, Input::CommandStarted]);
        assert_eq!(run.lifecycle.phase(), &Phase::Running);
        run
    }

    fn step(&mut self, input: Input) -> Vec<Action> {
        self.lifecycle.step(self.now, input)
    }

    fn all(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
        inputs.into_iter().flat_map(|input| self.step(input)).collect()
    }

    /// Lets the next deadline pass.
    fn wait(&mut self) -> (Purpose, Vec<Action>) {
        self.now = self.lifecycle.next_deadline().expect("a deadline");
        let purpose = self.lifecycle.expired(self.now).expect("a deadline that has passed");
        (purpose, self.step(Input::Expired(purpose)))
    }

    fn end(&self) -> &End {
        let Phase::Ended(end) = self.lifecycle.phase() else { panic!("{:?}", self.lifecycle.phase()) };
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
    assert!(!run.lifecycle.is_known());
    assert_eq!(run.step(Input::CommandStarted), [Action::RecordRunning, Action::TellReady]);
    assert!(run.lifecycle.is_known() && run.lifecycle.next_deadline().is_none(), "a command may run for any time");
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
    let rules = Rules { ready: Ready::Port(80), ..run.lifecycle.rules };
    let started = [Input::EngineStarted, Input::ControlOpened, Input::GuestReady, Input::CommandStarted];
    let mut run = Run::new(rules);
    assert_eq!(run.all(started.clone())[1..], [Action::RecordRunning, Action::AwaitPort(80)]);
    assert_eq!(run.lifecycle.phase(), &Phase::WaitingForReady);
    assert_eq!(run.step(Input::PortListens), [Action::TellReady]);
    assert_eq!((run.lifecycle.phase(), run.lifecycle.next_deadline()), (&Phase::Running, None));
    let mut run = Run::new(rules);
    run.all(started.clone());
    run.wait();
    assert_eq!(run.end(), &End::NotReady { seconds: 60, running: true });
    // No process waits, so the port does not matter.
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
        assert_eq!(run.lifecycle.next_deadline().is_some(), has_deadline);
        assert_eq!(run.step(Input::Signal(SIGINT)), [Action::KillEngine]);
        assert_eq!(run.end(), &End::Interrupted(SIGINT));
    }
    for before in [vec![], vec![Input::EngineStarted]] {
        let mut run = Run::plain();
        run.all(before);
        run.step(Input::Signal(SIGTERM));
        assert_eq!(run.end(), &End::Interrupted(SIGTERM), "there is no command yet");
    }
    // A command that handles a signal in its own way has its own end.
    let mut run = Run::running();
    run.all([Input::Signal(SIGTERM), Input::CommandEnded(Ending::Status(0))]);
    run.all([Input::EngineExited(Exit::PoweredOff), Input::OutputWritten]);
    assert_eq!(run.end(), &End::Command(Ending::Status(0)));
    // A second signal also ends the wait for a reader of the output.
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
            run.lifecycle.rules.has_stop_signal = has_stop_signal;
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
    // If a signal asked for the end, the run is interrupted by that signal.
    let mut run = Run::running();
    run.step(Input::Signal(SIGTERM));
    run.wait();
    run.wait();
    assert_eq!(run.lifecycle.next_deadline(), run.now.checked_add(Purpose::Engine.default()));
    run.all([Input::EngineExited(killed()), Input::OutputWritten, Input::ControlClosed]);
    assert_eq!(run.end(), &End::Interrupted(SIGTERM));
}

#[test]
fn a_guest_that_writes_its_disk_may_take_its_time_to_power_off() {
    let mut run = Run::running();
    run.step(Input::CommandEnded(Ending::Status(0)));
    for _ in 0..3 {
        run.now = run.lifecycle.next_deadline().unwrap();
        assert_eq!(run.lifecycle.expired(run.now), Some(Purpose::PowerOff));
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
        assert!(matches!(run.lifecycle.phase(), Phase::Draining(_)), "its last message may be under way");
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
    let gone = || Input::ServerEnded { cause: "share1 ended".into(), failed: false };
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
    assert!(matches!(run.lifecycle.phase(), Phase::PoweringOff(_)));
    let mut run = Run::plain();
    assert_eq!(run.wait().0, Purpose::Servers);
    assert!(matches!(run.end(), End::Server(_)));
}

#[test]
fn a_server_that_failed_is_the_reason_if_the_engine_then_gave_up_in_whatever_order_they_are_reported() {
    let ended = |role: &str, failed| Input::ServerEnded { cause: format!("{role} ended"), failed };
    let gave_up = || Exit::Ended { status: ExitStatus::from_raw(0x100), words: "socket broken".into() };
    let exited = |exit| [Input::EngineExited(exit), Input::OutputWritten, Input::ControlClosed];
    for exit in [gave_up(), Exit::Ended { status: ExitStatus::from_raw(0), words: "error".into() }] {
        let mut run = Run::running();
        run.all([ended("network", false), ended("share1", true)]);
        run.all(exited(exit.clone()));
        assert_eq!(run.end(), &End::GaveUp { server: "share1 ended".into(), exit: exit.clone() });
        let mut run = Run::running();
        run.all(exited(exit.clone()));
        run.all([ended("network", false), ended("share1", true)]);
        assert_eq!(run.end(), &End::GaveUp { server: "share1 ended".into(), exit: exit.clone() });
        // No server fails: then it is the engine's own doing.
        let mut run = Run::running();
        run.all(exited(exit.clone()));
        run.step(ended("network", false));
        assert_eq!(run.wait().0, Purpose::LastMessages);
        assert_eq!(run.end(), &End::Engine { exit, running: true });
    }
    // An engine that was killed, or whose guest ended, did not end because of its servers.
    for exit in [killed(), Exit::PoweredOff, Exit::Rebooted, Exit::Panicked] {
        let mut run = Run::running();
        run.step(ended("share1", true));
        run.all(exited(exit.clone()));
        assert_eq!(run.end(), &End::Engine { exit, running: true });
    }
    // What the command said last counts more.
    let mut run = Run::running();
    run.all([Input::EngineExited(gave_up()), Input::OutputWritten, Input::CommandEnded(Ending::Status(7))]);
    assert_eq!(run.end(), &End::Command(Ending::Status(7)));
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
            Input::ServerEnded { cause: "x".into(), failed: false },
            Input::ServerEnded { cause: "x".into(), failed: true },
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
                let bounded = match run.lifecycle.phase() {
                    // A command may run for any time, and a reader of its output may be slow.
                    Phase::Running | Phase::Draining(_) | Phase::Ended(_) => true,
                    _ => run.lifecycle.next_deadline().is_some(),
                };
                assert!(bounded, "{said:?} leads to {:?}", run.lifecycle);
            }
        }
    }
}
