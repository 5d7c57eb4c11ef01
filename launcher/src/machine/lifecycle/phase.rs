//! The phases of a run.

use crate::machine::end::End;

/// The phase of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Phase {
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
    /// The command has been told to end, or has been sent a signal that this process got.
    Stopping(Asked),
    /// The command has ended. The guest writes back its data and powers off.
    PoweringOff(End),
    /// The engine has ended. Messages that have not arrived yet may say how the command ended, and the command's output
    /// is being written.
    Draining(End),
    /// Nothing is left to wait for.
    Ended(End),
}

/// What asked the command to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Asked {
    /// Another command, such as `lamina stop`.
    Command,
    /// A signal to this process.
    Signal(i32),
}
