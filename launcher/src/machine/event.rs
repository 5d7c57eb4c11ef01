//! What a supervisor waits for.

use std::io;
use std::process::ExitStatus;

use guest_protocol::Message;

use super::permit::Permit;
use super::request::ApiRequest;
use crate::engine;

/// Something that happened to a machine.
#[derive(Debug)]
pub(crate) enum Event {
    /// The engine reports something.
    Engine(engine::Event),
    /// The guest said something. More of it is read when the permit is dropped.
    Control(u32, Message, Permit),
    /// The control channel ended, normally or with an error.
    ControlClosed(Option<io::Error>),
    /// The console says that the guest's kernel panics. A guest can forge that, but it only ends itself.
    Panicked,
    /// A helper process besides the engine ended.
    Ended(usize, ExitStatus),
    /// Threads of this process no longer serve the root.
    RootEnded,
    /// All output of the command has been passed on.
    Flushed,
    /// Another command asks for something that concerns the machine as a whole.
    Asked(ApiRequest),
    /// This process got a signal.
    Signal(i32),
}
