//! What a machine's run is made of.

use std::path::PathBuf;
use std::time::Duration;

use guest_init::protocol::{Process, Setup};

use super::directory::Directory;
use super::ends::Ends;
use super::handover::Handover;
use super::root::RootServer;
use crate::hypervisor::CommandLine;
use crate::ready::Ready;

/// A machine to run.
#[derive(Debug)]
pub struct Order {
    /// The server of its root, and that root's socket.
    pub root: (Box<dyn RootServer>, PathBuf),
    /// The machine's directories, which go last.
    pub directory: Directory,
    /// The servers of its further shares and of its network, each with its socket, which is named after what it serves.
    pub shares: Vec<(CommandLine, PathBuf)>,
    /// The hypervisor.
    pub hypervisor: CommandLine,
    /// The sockets to listen on: control channel and monitor.
    pub sockets: (PathBuf, PathBuf),
    /// The console's file.
    pub console: PathBuf,
    /// Whether to show the console as it grows.
    pub show_console: bool,
    /// What the guest mounts. The clock is filled in when it is sent.
    pub setup: Setup,
    /// The command.
    pub process: Process,
    /// Where the command's channels lead.
    pub ends: Option<Ends>,
    /// Who waits for the word that the command runs.
    pub handover: Handover,
    /// When the machine counts as ready.
    pub ready: Ready,
    /// How long the guest may take until it is.
    pub ready_timeout: Duration,
}
