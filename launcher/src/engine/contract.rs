//! What an engine is to the rest of the program.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;

use super::plan::Plan;
use super::request::Request;
use crate::failure::Failure;
use crate::host::Boot;
use crate::host::command_line::CommandLine;
use crate::host::network::NetworkBackend;
use crate::host::process::Process;

/// A program that executes a guest.
pub(crate) trait Engine: fmt::Debug + Sync {
    /// The name that people choose it by.
    fn name(&self) -> &'static str;

    /// The name that its makers gave it, for sentences.
    fn title(&self) -> &'static str;

    /// The names of its accelerators, the best first. Engines that have the same one give it the same name.
    fn accelerators(&self) -> &'static [&'static str];

    /// The names of the machine types that people may choose from.
    fn machines(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where its program is.
    ///
    /// # Errors
    /// It is missing; says how to install it.
    fn program(&self) -> Result<PathBuf, Failure>;

    /// Finds out what it can do on this host for `request`, by trying, and tries no more than that request depends on.
    ///
    /// # Errors
    /// It cannot be used here at all, or the probe was given up.
    fn probe(&self, host: &Host<'_>, request: &Request) -> Result<Capabilities, Failure>;

    /// Checks what it alone cannot do. What no engine can do is checked by [`check`].
    ///
    /// # Errors
    /// Names what does not fit, and the way out.
    fn check(&self, plan: &Plan) -> Result<(), Failure>;

    /// What it is given for `plan`, to be printed.
    ///
    /// # Errors
    /// Names a value that it cannot be given.
    fn describe(&self, plan: &Plan) -> Result<Description, Failure>;

    /// Starts it, and tells `events` from then on what happens, until [`Event::Exited`].
    ///
    /// The servers of the plan's shares and of its network are there already. Call it in a thread that lives as long as
    /// the machine: the kernel ends the engine's process with that thread.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure>;
}

/// What a probe has to try with.
pub(crate) struct Host<'a> {
    /// What guests boot.
    pub(crate) boot: &'a Boot,
    /// The cache directory.
    pub(crate) cache: &'a Path,
    /// Fails when the probe is to be given up, as after a signal.
    pub(crate) check: &'a dyn Fn() -> Result<(), Failure>,
    /// Try everything, whatever is remembered and whatever the request depends on.
    pub(crate) thorough: bool,
}

/// What an engine can do on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// What can execute its guests, the best first.
    pub(crate) accelerators: Vec<Accelerator>,
    /// Its machine types, the best first. An engine without a choice has one.
    pub(crate) machines: Vec<MachineType>,
    /// Whether it has virtiofs devices, which carry shares and most roots.
    pub(crate) shares: Result<(), String>,
    /// What can carry its guests' packets, besides nothing.
    pub(crate) networks: Vec<NetworkBackend>,
}

/// What can execute an engine's guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accelerator {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it runs a guest here, or why not.
    pub(crate) works: Result<(), String>,
}

/// A machine type of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineType {
    /// Its name.
    pub(crate) name: &'static str,
    /// How many shares, disks and network cards it has room for, the root among them.
    pub(crate) most_devices: usize,
    /// What speaks for it.
    pub(crate) advantage: &'static str,
    /// The accelerators with which it is not chosen unless asked for, and why.
    pub(crate) unfit: Vec<(&'static str, &'static str)>,
}

/// What an engine is given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Description {
    /// The command line by which it is started.
    pub(crate) command: CommandLine,
    /// A document that says the same or goes with it, if there is one.
    pub(crate) document: Option<Document>,
}

impl fmt::Display for Description {
    /// As a shell takes the command line, with the document after it as a comment and JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.command.to_shell())?;
        match &self.document {
            Some(Document { about, path, body }) => writeln!(f, "# {about} ({})\n{body:#}", path.display()),
            None => Ok(()),
        }
    }
}

/// A document that an engine takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// What it is, in one line.
    pub(crate) about: String,
    /// The file that it is for.
    pub(crate) path: PathBuf,
    /// JSON.
    pub(crate) body: Value,
}

/// An engine that has been started. Dropping this kills it, and returns after [`Event::Exited`] has been told.
///
/// It can only be killed. A guest is asked to end over the control channel, which is the same for all engines, and its
/// init says there when everything is on its disks; so no engine needs its own word for a stop.
pub(crate) trait Running: fmt::Debug {
    /// The process to be named in the machine's record.
    fn process(&self) -> &Process;

    /// Ends the guest and the engine at once. Does nothing if they have ended.
    fn kill(&self);
}

/// Most engines are one process.
impl Running for Process {
    fn process(&self) -> &Process {
        self
    }

    fn kill(&self) {
        Self::kill(self);
    }
}

/// Something that an engine tells about its guest.
///
/// There is no event for a boot: [`Event::Connected`] and the first message of the guest's init show it for every engine.
/// A reboot, a power-off and a panic are not events of their own, because each ends the machine: they are reasons of
/// [`Event::Exited`], so nobody has to put a reason together from what came before.
#[derive(Debug)]
pub(crate) enum Event {
    /// The control channel to the guest's init is there, though init may not be.
    Connected(UnixStream),
    /// The host failed to read or write one of the machine's disks; why.
    DiskFailed(String),
    /// The engine has ended, and nothing follows. All that it said before has been told.
    Exited(Exit),
}

/// Where an engine tells what happens. It may be called from any thread, and must not wait.
pub(crate) type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// Why an engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The guest powered off.
    PoweredOff,
    /// The guest rebooted, which ends a machine.
    Rebooted,
    /// The guest's kernel panicked, and the engine noticed.
    Panicked,
    /// The guest did nothing of that: the engine failed, was killed, or was told to end.
    Ended {
        /// How its process ended.
        status: ExitStatus,
        /// What it wrote last; empty if nothing.
        words: String,
    },
}

/// Checks before anything is started whether `engine` can carry out `plan`.
///
/// # Errors
/// Names what does not fit, and the way out.
pub(crate) fn check(engine: &dyn Engine, plan: &Plan) -> Result<(), Failure> {
    plan.check()?;
    engine.check(plan)
}

/// Why an engine that is only printed so far cannot be used.
pub(super) fn not_started_yet(engine: &dyn Engine) -> Failure {
    Failure::new(engine.title(), "lamina prints what it would be given (--dry-run), and cannot start it yet")
        .with_hint("use --engine qemu")
}
