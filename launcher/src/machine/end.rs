//! Why a run ended, and the message for it.

use guest_protocol::Ending;

use super::console::PANIC;
use super::signals::interrupted;
use crate::engine::Exit;
use crate::failure::{Failure, MACHINE_FAILED};
use crate::spec::ready::Ready;

/// The end of a command that was killed, alone or with its machine.
pub(super) const KILLED: Ending = Ending::Signal(9);

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The command ended.
    Command(Ending),
    /// The command could not be started.
    NotStarted {
        /// The exit status: 125 to 127.
        status: u8,
        /// Why.
        cause: String,
    },
    /// Another command ended the machine.
    Killed,
    /// A signal to this process ended the machine.
    Interrupted(i32),
    /// The guest was not ready in time.
    NotReady {
        /// How many seconds it had.
        seconds: u64,
        /// Whether the command ran.
        running: bool,
    },
    /// The guest could not go on, and why.
    Guest(String),
    /// The guest broke the protocol, and how.
    Breach(String),
    /// A server or another process of the host failed, and how.
    Server(String),
    /// A server failed, and the engine then gave up.
    GaveUp {
        /// Which server, and how.
        server: String,
        /// How the engine ended.
        exit: Exit,
    },
    /// The engine ended.
    Engine {
        /// Why.
        exit: Exit,
        /// Whether the command ran.
        running: bool,
    },
}

impl End {
    /// Whether the guest's console may say more about it.
    pub(super) fn is_on_console(&self) -> bool {
        match self {
            Self::NotReady { .. } | Self::Guest(_) => true,
            // An engine that was killed from outside left no message there.
            Self::Engine { exit: Exit::Ended { status, .. }, .. } => status.success(),
            Self::Engine { .. } => true,
            _ => false,
        }
    }

    /// Returns the outcome of the run of the machine called `name`. `console` is the end of what its kernel wrote, and
    /// `engine` what executed it.
    ///
    /// # Errors
    /// The command did not end by itself, and no other command ended it.
    pub(super) fn outcome(self, name: &str, console: &str, ready: Ready, engine: &str) -> Result<Ending, Failure> {
        let failed = |cause: &str| Failure::new(format_args!("machine {name}"), cause).with_status(MACHINE_FAILED);
        match self {
            Self::Command(ending) => Ok(ending),
            Self::Killed => Ok(KILLED),
            Self::NotStarted { status, cause } => Err(failed(&cause).with_status(status)),
            Self::Interrupted(signal) => Err(interrupted(signal)),
            Self::NotReady { seconds, running } => {
                let missing = if running { format!(": not before {ready}") } else { String::new() };
                Err(failed(&format!("the guest was not ready after {seconds} s{missing}"))
                    .with_hint("see its console with --console, or give it more time with --ready-timeout"))
            }
            Self::Guest(cause) | Self::Breach(cause) | Self::Server(cause) => Err(failed(&cause)),
            Self::GaveUp { server, exit } => Err(failed(&format!("{server}; then {}", words(&exit, true, engine)))),
            Self::Engine { exit, running } => Err(match panic_in(console) {
                Some(cause) => {
                    let failure = failed(&format!("the guest's kernel panicked: {cause}"));
                    if cause.contains("Out of memory") || cause.contains("System is deadlocked on memory") {
                        failure.with_hint("give it more with --memory")
                    } else {
                        failure
                    }
                }
                None => failed(&words(&exit, running, engine)),
            }),
        }
    }
}

/// Returns what the last lines of the console say about a panic. The guest's programs can write such lines too, but
/// only about their own guest.
fn panic_in(console: &str) -> Option<&str> {
    console.lines().find_map(|line| Some(line.split_once(PANIC)?.1.trim()))
}

fn words(exit: &Exit, running: bool, engine: &str) -> String {
    let when = if running { "before its command ended" } else { "before its command was started" };
    match exit {
        Exit::PoweredOff => format!("the guest powered off {when}"),
        Exit::Rebooted => format!("the guest rebooted {when}"),
        Exit::Panicked => "the guest's kernel panicked".to_owned(),
        Exit::Ended { status, words } if words.is_empty() => format!("the {engine} ended {when} ({status})"),
        Exit::Ended { status, words } => format!("the {engine} ended {when} ({status}): {words}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn every_way_to_end_has_its_own_message() {
        let ended = |status, words: &str| Exit::Ended { status: ExitStatus::from_raw(status), words: words.to_owned() };
        let engine = |exit| End::Engine { exit, running: true };
        let panic = "[    1.5] Kernel panic - not syncing: Attempted to kill init!\n[    1.5] CPU: 0";
        let memory = "[    1.5] Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled";
        for (end, console, expected) in [
            (engine(Exit::PoweredOff), "", "powered off before its command ended"),
            (End::Engine { exit: Exit::PoweredOff, running: false }, "", "powered off before its command was started"),
            (engine(Exit::Rebooted), "", "rebooted"),
            (engine(Exit::Panicked), "", "kernel panicked"),
            (engine(Exit::Rebooted), panic, "kernel panicked: Attempted to kill init!"),
            (engine(ended(9, "")), panic, "kernel panicked: Attempted to kill init!"),
            (engine(Exit::Rebooted), memory, "give it more with --memory"),
            (engine(ended(9, "")), "", "ended before its command ended (signal: 9 (SIGKILL))"),
            (engine(ended(0, "qemu: bad")), "", "(exit status: 0): qemu: bad"),
            (End::Guest("/x: no such tag".into()), "", "machine m: /x: no such tag"),
            (End::Server("its share ended".into()), "", "machine m: its share ended"),
            (
                End::GaveUp { server: "its share ended".into(), exit: ended(256, "socket broken") },
                "",
                "its share ended; then the hypervisor ended before its command ended (exit status: 1): socket broken",
            ),
            (End::NotReady { seconds: 5, running: true }, "", "not ready after 5 s: not before its command ran"),
        ] {
            let failure = end.outcome("m", console, Ready::Exec, "hypervisor").unwrap_err();
            assert!(failure.to_string().contains(expected), "{failure}");
            assert_eq!(failure.status(), MACHINE_FAILED);
        }
        let outcome = |end: End| end.outcome("m", "", Ready::Exec, "hypervisor").map_err(|failure| failure.status());
        assert_eq!(outcome(End::Command(Ending::Status(3))), Ok(Ending::Status(3)));
        assert_eq!(outcome(End::Killed), Ok(KILLED));
        assert_eq!(outcome(End::Interrupted(15)), Err(143));
        assert_eq!(outcome(End::NotStarted { status: 127, cause: "x".into() }), Err(127));
    }

    #[test]
    fn the_console_says_nothing_of_an_engine_that_was_killed() {
        let by = |status| End::Engine {
            exit: Exit::Ended { status: ExitStatus::from_raw(status), words: String::new() },
            running: true,
        };
        assert!(by(0).is_on_console() && !by(9).is_on_console());
        assert!(!End::Command(Ending::Status(1)).is_on_console());
    }
}
