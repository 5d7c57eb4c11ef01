//! What the rest of the program knows about an engine.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;
use vhost_user::VhostUserDevice;

use super::plan::{Disk, Plan};
use super::request::RunRequest;
use crate::failure::Failure;
use crate::host::Boot;
use crate::host::command_line::CommandLine;
use crate::host::confine::{Account, Level, Support};
use crate::host::kernel::Kernel;
use crate::host::network::NetworkBackend;
use crate::host::process::Process;

/// A program that executes a guest.
pub(crate) trait Engine: fmt::Debug + Sync {
    /// The name that people choose it by.
    fn name(&self) -> &'static str;

    /// The product name, for sentences.
    fn title(&self) -> &'static str;

    /// The names of its accelerators, the best first. Engines with the same accelerator use the same name for it.
    fn accelerators(&self) -> &'static [&'static str];

    /// The names of the machine types that people may choose from.
    fn machines(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns whether its guests run on the host's kernel. They are containers: they start at once and boot nothing, and
    /// only the host's kernel separates them from the host.
    fn shares_kernel(&self) -> bool {
        false
    }

    /// Returns how many bytes `/dev/shm` can have in a guest with so many bytes of memory, unless the user says how many: a
    /// guest's own kernel allows half of its memory, of which it has a little less.
    fn shared_memory(&self, memory: u64) -> u64 {
        memory / 2
    }

    /// Returns how many queues a disk that a server provides (vhost-user-blk) gets in a guest with `cpus` processors, or
    /// `None` if the engine has no such disks.
    fn served_disk_queues(&self, _cpus: u32) -> Option<u16> {
        None
    }

    /// Finds its program.
    ///
    /// # Errors
    /// It is missing; says how to install it.
    fn program(&self) -> Result<PathBuf, Failure>;

    /// Finds out, by trying, what it can do on this host. Tries only what `request` depends on.
    ///
    /// # Errors
    /// It cannot be used here at all, or the probe was cancelled.
    fn probe(&self, host: &Host<'_>, request: &RunRequest) -> Result<Capabilities, Failure>;

    /// Returns what it boots for `kernel`: the image that distributions install, unless it takes another form, which is
    /// then made in `cache`.
    ///
    /// # Errors
    /// The other form cannot be made.
    fn kernel(&self, kernel: &Kernel, _cache: &Path) -> Result<PathBuf, Failure> {
        Ok(kernel.image.clone())
    }

    /// Returns the serial by which its guests find a disk.
    ///
    /// # Errors
    /// The disk cannot be examined.
    fn serial(&self, disk: &Disk) -> Result<String, Failure> {
        Ok(disk.serial.clone())
    }

    /// Checks for what this engine cannot do. [`check`] checks for what no engine can do.
    ///
    /// # Errors
    /// Names what does not fit, and the way out.
    fn check(&self, plan: &Plan) -> Result<(), Failure>;

    /// Describes, for printing, the arguments and settings that it would get for `plan`.
    ///
    /// # Errors
    /// Names a value that it cannot be given.
    fn describe(&self, plan: &Plan) -> Result<Description, Failure>;

    /// Starts it. Reports what happens to `events`, until [`Event::Exited`].
    ///
    /// The servers of the plan's shares and of its network must be running. Call this in a thread that lives as long as
    /// the machine, because the kernel ends the engine's process with that thread.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure>;
}

/// What a probe uses.
pub(crate) struct Host<'a> {
    /// What guests boot, or why they cannot.
    pub(crate) boot: Result<&'a Boot, &'a Failure>,
    /// The cache directory.
    pub(crate) cache: &'a Path,
    /// Fails when the probe must be cancelled, such as after a signal.
    pub(crate) check: &'a dyn Fn() -> Result<(), Failure>,
    /// How much the engine is confined, and whom it runs as if this process is root.
    pub(crate) confine: (Level, Option<Account>),
    /// Try everything, even what is remembered and what the request does not depend on.
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
    /// Whether its network card is a vhost-user device, which only newer versions of passt serve.
    pub(crate) vhost_user_network: bool,
    /// What can confine its program.
    pub(crate) confinement: Support,
    /// Whether its guests run on the host's kernel: they need none of its drivers, and it mounts their roots itself.
    pub(crate) shares_kernel: bool,
    /// What its users should know without asking.
    pub(crate) notices: Vec<String>,
}

impl Capabilities {
    /// Returns whether the best of its accelerators works.
    #[must_use]
    pub(crate) fn is_at_its_best(&self) -> bool {
        self.accelerators.first().is_none_or(|best| best.works.is_ok())
    }
}

/// What can execute an engine's guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accelerator {
    pub(crate) name: &'static str,
    /// Whether it runs a guest here, or why not.
    pub(crate) works: Result<(), String>,
    /// What its users should know, in a few words.
    pub(crate) caution: Option<&'static str>,
    /// Why its guests should have their root on a disk if nothing else is asked for, where measurement says so.
    pub(crate) root_by_disk: Option<&'static str>,
}

/// A machine type of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineType {
    pub(crate) name: &'static str,
    /// How many shares, disks and network cards it has room for, the root among them.
    pub(crate) most_devices: usize,
    /// Its advantage, as a reason to choose it.
    pub(crate) advantage: &'static str,
    /// The accelerators with which it is chosen only on request, and why.
    pub(crate) unfit: Vec<(&'static str, &'static str)>,
}

/// What an engine is given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Description {
    /// The command line that starts it.
    pub(crate) command: CommandLine,
    /// A document that describes the same machine or belongs to the command line, if there is one.
    pub(crate) document: Option<Document>,
}

impl fmt::Display for Description {
    /// The command line as a shell reads it, followed by the document: a comment and JSON.
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

/// An engine that has been started. Dropping this kills it, and returns after [`Event::Exited`] has been reported.
///
/// It can only be killed. A guest is asked to end over the control channel, which is the same for all engines, and its
/// init says there when everything is on its disks. So no engine needs its own way to stop a guest.
pub(crate) trait Running: fmt::Debug {
    /// The process to record for the machine.
    fn process(&self) -> &Process;

    /// What that process is.
    fn role(&self) -> &'static str {
        "hypervisor"
    }

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

/// Something that an engine reports about its guest.
///
/// There is no event for a boot: [`Event::Connected`] and the first message of the guest's init show it for every
/// engine. A reboot, a power-off and a panic are not separate events, because each ends the machine. They are the
/// reason in [`Event::Exited`], so the receiver need not combine several events to find the reason.
#[derive(Debug)]
pub(crate) enum Event {
    /// The control channel to the guest's init exists. Init may not run yet.
    Connected(UnixStream),
    /// The host failed to read or write one of the machine's disks; why.
    DiskFailed(String),
    /// A program that the engine needs beside its own has ended; what it was, and why.
    HelperEnded(String),
    /// The engine has ended. This is the last event, and everything that the engine said before it has been reported.
    Exited(Exit),
}

/// Receives what happens to an engine. It may be called from any thread, and must not wait.
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
    /// None of these: the engine failed, was killed, or was told to end.
    Ended {
        /// How its process ended.
        status: ExitStatus,
        /// What it wrote last; empty if nothing.
        words: String,
    },
}

/// Returns a queue for each of a guest's processors, up to what a server has: then none of them waits for another's.
pub(super) fn queue_for_each(cpus: u32) -> u16 {
    u16::try_from(cpus).unwrap_or(u16::MAX).clamp(1, VhostUserDevice::DISK_QUEUES_MAX)
}

/// Checks before anything is started whether `engine` can carry out `plan`.
///
/// # Errors
/// Names what does not fit, and the way out.
pub(crate) fn check(engine: &dyn Engine, plan: &Plan) -> Result<(), Failure> {
    if engine.shares_kernel() != plan.container.is_some() {
        let (wanted, has) = if engine.shares_kernel() { ("a container", "a VM") } else { ("a VM", "a container") };
        return Err(Failure::new(engine.title(), format_args!("it runs {wanted}, and this is the plan of {has}")));
    }
    if !plan.served_disks.is_empty() && engine.served_disk_queues(plan.cpus).is_none() {
        let cause = "it has no disk that a server provides (vhost-user-blk)";
        let hint = format!("choose it with --engine {}: its guests get the root as a file", engine.name());
        return Err(Failure::new(engine.title(), cause).with_hint(hint));
    }
    plan.check()?;
    engine.check(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_has_a_queue_up_to_what_a_server_has() {
        assert_eq!([0, 1, 2, 16, 17, u32::MAX].map(queue_for_each), [1, 1, 2, 16, 16, 16]);
    }
}
