//! The input of a run, and its requests.

use std::time::Duration;

use guest_protocol::Ending;

use super::deadline::Purpose;
use crate::engine::Exit;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Input {
    /// The servers have created their sockets, and the engine has been started.
    EngineStarted,
    /// The control channel to the guest is open.
    ControlOpened,
    /// The control channel has ended.
    ControlClosed,
    /// Init has entered the root.
    GuestReady,
    /// Init has started the command.
    CommandStarted,
    /// The command has ended.
    CommandEnded(Ending),
    /// The command could not be started: the exit status, and why.
    CommandFailed(u8, String),
    /// Something listens on the port that makes the machine ready.
    PortListens,
    /// Init cannot go on, and powers off.
    GuestFailed(String),
    /// The guest broke the protocol.
    GuestBroke(String),
    /// The guest has written everything to its disks.
    Halting,
    /// The guest's kernel panicked.
    KernelPanicked,
    /// The engine has ended.
    EngineExited(Exit),
    /// A server that the guest uses has ended.
    ServerEnded {
        /// Which, and how.
        cause: String,
        /// Whether it ended otherwise than a server does whose engine has ended.
        failed: bool,
    },
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
pub(in crate::machine) enum Action {
    /// Tell init to start the command.
    StartCommand,
    /// Record that the command runs.
    RecordRunning,
    /// Have a tool in the guest wait until something listens on this port.
    AwaitPort(u16),
    /// Tell the process that started the machine that it is ready.
    TellReady,
    /// Ask the command to end, with its own signal.
    StopCommand,
    /// Send a signal to the command.
    SignalCommand(i32),
    /// No more output follows: write what is left.
    EndOutput,
    /// Tell the guest to power off.
    PowerOff,
    /// Warn that the guest did not end in time.
    WarnLate,
    KillEngine,
}
