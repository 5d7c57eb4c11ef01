//! What a supervisor waits for.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;

use guest_protocol::Message;

use super::api::Request;

/// Something that happened to a machine.
#[derive(Debug)]
pub(crate) enum Event {
    /// The hypervisor connected the control channel.
    Connected(UnixStream),
    /// The guest said something.
    Control(u32, Message),
    /// The control channel ended, by an error or by its end.
    ControlClosed(Option<io::Error>),
    /// The hypervisor says that the machine stops, and why (QMP's `ShutdownCause`).
    Shutdown(String),
    /// The hypervisor's own channel was opened (true) or has ended.
    Monitor(bool),
    /// The guest's kernel says on its console that it panics.
    Panicked,
    /// The guest's kernel says on its console that its memory ran out and which process it ended for that.
    MemoryRanOut(String),
    /// The guest's init says that the memory for its writes is full; the words for the user.
    WritesFull(String),
    /// The hypervisor could not read or write the machine's own disk; why.
    DiskFailed(String),
    /// A helper process ended.
    Ended(usize, ExitStatus),
    /// All output of the command has been passed on.
    Flushed,
    /// Another command asks for something that concerns the machine as a whole.
    Asked(Request),
    /// This process got a signal.
    Signal(i32),
}
