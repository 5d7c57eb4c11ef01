//! From a request to a machine: the pieces put together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::protocol::{self, Overlay, Process, Setup};

use crate::accelerator::{self, Accelerator};
use crate::failure::Failure;
use crate::host::{self, Tools};
use crate::hypervisor::{CommandLine, Plan, ShareDevice, cloud_hypervisor, qemu};
use crate::machine::{Directory, Order, RootServer, Signals};
use crate::policy::{Decision, Request};
use crate::share::{self, Resolved};
use crate::virtiofsd::{Owner, Purpose};

/// The tag of the root.
const ROOT: &str = "root";

/// A start as the user asks for it, apart from its root.
#[derive(Clone, Debug)]
pub struct Start {
    /// The machine's name.
    pub name: String,
    /// What it runs on, as the user named it.
    pub root_name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Where writes to the root go.
    pub overlay: Overlay,
    /// The further shares.
    pub shares: Vec<Resolved>,
    /// The command.
    pub process: Process,
    /// Whether the kernel's console is shown.
    pub show_console: bool,
    /// How long the guest may take to get ready.
    pub ready_timeout: Duration,
}

/// Everything that is settled before anything is started.
#[derive(Debug)]
pub struct Prepared {
    /// What is done, and why.
    pub decision: Decision,
    /// The programs and files it uses.
    pub tools: Tools,
    start: Start,
}

impl Prepared {
    /// Looks at the host and decides.
    ///
    /// # Errors
    /// Something is missing, or what was forced cannot work.
    pub fn new(
        start: Start,
        request: &Request,
        tools: Tools,
        cache: &Path,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let capabilities = tools.capabilities(request, cache, signals)?;
        let decision = crate::policy::decide(&capabilities, request)?;
        Ok(Self { decision, tools, start })
    }

    /// The hypervisor's view of the machine whose files are in `directory`.
    fn plan(&self, directory: &Directory) -> Plan {
        let device = |tag: String| ShareDevice { socket: directory.socket(&tag), tag };
        let further = (1..=self.start.shares.len()).map(share::tag);
        let mut kernel_parameters = Vec::new();
        if !self.start.show_console {
            // An emulated serial line is slow enough to delay the boot; a panic is printed regardless.
            kernel_parameters.push("quiet".to_owned());
        }
        Plan {
            name: self.start.name.clone(),
            cpus: self.start.cpus,
            memory_mib: self.start.memory_mib,
            kernel: self.tools.kernel.image.clone(),
            initramfs: self.tools.initramfs.clone(),
            kernel_parameters,
            shares: std::iter::once(ROOT.to_owned()).chain(further).map(device).collect(),
            control: directory.socket("control"),
            monitor: directory.socket("monitor"),
            console: directory.file("console.log"),
        }
    }

    fn qemu(&self, plan: &Plan) -> CommandLine {
        let tsc = accelerator::tsc_khz();
        qemu::command(&self.tools.qemu, plan, self.decision.machine, self.decision.accelerator, tsc)
    }

    /// The servers of the further shares, each with its socket.
    fn share_servers(&self, directory: &Directory) -> Result<Vec<(CommandLine, PathBuf)>, Failure> {
        if self.start.shares.is_empty() {
            return Ok(Vec::new());
        }
        let virtiofsd = self.tools.virtiofsd.clone()?;
        let owner = Owner::ourselves();
        let server = |(position, resolved): (usize, &Resolved)| {
            let socket = directory.socket(&share::tag(position + 1));
            let purpose = if resolved.share.read_only { Purpose::ReadOnly } else { Purpose::ReadWrite };
            Ok((virtiofsd.command(&resolved.directory, &socket, purpose, &owner)?, socket))
        };
        self.start.shares.iter().enumerate().map(server).collect()
    }

    /// What would be started, as a shell would take it: the servers, then QEMU, then (for who uses it) the
    /// same machine under Cloud Hypervisor.
    ///
    /// # Errors
    /// The plan does not fit the hypervisor.
    pub fn describe(&self, root: &dyn RootServer, directory: &Directory) -> Result<String, Failure> {
        let plan = self.plan(directory);
        plan.check()?;
        let mut text: String = self.decision.reasons.iter().map(|reason| format!("# {reason}\n")).collect();
        if let Some(server) = root.command_line(&directory.socket(ROOT), directory)? {
            text.push_str(&server.to_shell());
            text.push('\n');
        }
        for (server, _) in self.share_servers(directory)? {
            text.push_str(&server.to_shell());
            text.push('\n');
        }
        text.push_str(&self.qemu(&plan).to_shell());
        text.push('\n');
        let (program, version) = host::cloud_hypervisor().unwrap_or_else(|_| ("cloud-hypervisor".into(), u32::MAX));
        if self.decision.accelerator == Accelerator::Kvm {
            text.push_str("# the same by Cloud Hypervisor\n");
            text.push_str(&cloud_hypervisor::command(&program, &plan, version)?.to_shell());
            text.push('\n');
        }
        Ok(text)
    }

    /// The machine, ready to run.
    ///
    /// # Errors
    /// The plan does not fit the hypervisor.
    pub fn order(self, root: Box<dyn RootServer>, directory: Directory) -> Result<Order, Failure> {
        let plan = self.plan(&directory);
        plan.check()?;
        Ok(Order {
            root: (root, directory.socket(ROOT)),
            shares: self.share_servers(&directory)?,
            hypervisor: self.qemu(&plan),
            sockets: (plan.control, plan.monitor),
            console: plan.console,
            show_console: self.start.show_console,
            setup: setup(&self.start),
            directory,
            name: self.start.name,
            root_name: self.start.root_name,
            process: self.start.process,
            ready_timeout: self.start.ready_timeout,
        })
    }
}

/// What the guest is told to mount.
fn setup(start: &Start) -> Setup {
    let share = |(position, resolved): (usize, &Resolved)| protocol::Share {
        tag: share::tag(position + 1),
        target: resolved.share.guest.clone(),
        read_only: resolved.share.read_only,
        file: resolved.file.clone(),
    };
    Setup {
        hostname: start.name.clone(),
        seconds: 0,
        nanoseconds: 0,
        root_tag: ROOT.to_owned(),
        overlay: start.overlay,
        shares: start.shares.iter().enumerate().map(share).collect(),
    }
}
