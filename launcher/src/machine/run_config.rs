//! Everything that one run of a machine uses.

use std::path::PathBuf;
use std::time::Duration;

use composefs_fuse::linux::StatsSocket;
use guest_protocol::{Process, Setup};

use crate::engine::{Engine, Plan};
use crate::host::command_line::CommandLine;
use crate::root::RootServer;
use crate::spec::ready::Ready;

/// A machine, ready to run.
#[derive(Debug)]
pub(crate) struct RunConfig {
    /// The server of its root, and that root's socket.
    pub(crate) root: (Box<dyn RootServer>, PathBuf),
    /// The socket that returns the root's counters, for as long as this exists.
    pub(crate) _stats: Option<StatsSocket>,
    /// The servers of its further shares and of its network, each with its socket, whose name says what it serves.
    pub(crate) shares: Vec<(CommandLine, PathBuf)>,
    /// What executes the guest, and how.
    pub(crate) engine: (&'static dyn Engine, Plan),
    /// Whether to show the console as it grows.
    pub(crate) show_console: bool,
    /// What the guest mounts. The clock is filled in when it is sent.
    pub(crate) setup: Setup,
    /// The command.
    pub(crate) process: Process,
    /// When the machine counts as ready.
    pub(crate) ready: Ready,
    /// How long the guest may take until it is.
    pub(crate) ready_timeout: Duration,
}
