//! From a request to a machine: the pieces put together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use composefs_fuse::Server;
use composefs_fuse::linux::StatsSocket;
use composefs_fuse::stats::Stats;
use guest_init::protocol::{self, Overlay, Setup};

use crate::accelerator::{self, Accelerator};
use crate::failure::{About, Failure};
use crate::host::{self, Tools};
use crate::hypervisor::{CommandLine, Plan, ShareDevice, cloud_hypervisor, qemu};
use crate::machine::{
    self, DirectRoot, Directory, DirectoryRoot, Ends, Handover, MountedRoot, Order, RootServer, Signals,
};
use crate::policy::{Backend, Decision};
use crate::share::{self, Resolved, Share};
use crate::spec::{Spec, Tree, Writes};
use crate::virtiofsd::{Owner, Purpose};

/// The tag of the root.
const ROOT: &str = "root";

/// Everything that is settled before anything is started.
#[derive(Debug)]
pub struct Prepared {
    /// What is done, and why.
    pub decision: Decision,
    /// The programs and files it uses.
    pub tools: Tools,
    spec: Spec,
    shares: Vec<Resolved>,
}

impl Prepared {
    /// Looks at the host and decides.
    ///
    /// # Errors
    /// Something is missing, or what was forced cannot work.
    pub fn new(spec: Spec, signals: &Signals) -> Result<Self, Failure> {
        let shares = spec.shares.iter().map(Share::resolve).collect::<Result<Vec<_>, _>>()?;
        let cache = machine::cache_home()?;
        let tools = Tools::find(spec.kernel.as_deref(), &cache, &spec.request)?;
        let capabilities = tools.capabilities(&spec.request, &cache, signals)?;
        let decision = crate::policy::decide(&capabilities, &spec.request)?;
        Ok(Self { decision, tools, spec, shares })
    }

    /// Who serves the root `tree`, and the counters of what it is asked where that is this process.
    ///
    /// # Errors
    /// What it takes is not there.
    pub fn root_server(&self, tree: Tree) -> Result<Served, Failure> {
        let virtiofsd = self.tools.virtiofsd.clone();
        let view = match tree {
            Tree::Directory(path) => return Ok((Box::new(DirectoryRoot { path, virtiofsd: virtiofsd? }), None)),
            Tree::View(view) => view,
        };
        let server = Arc::new(Server::new(view));
        let asked = Some(Arc::clone(server.stats()));
        Ok(match self.decision.backend {
            Backend::Direct => (Box::new(DirectRoot::new(server)), asked),
            Backend::Virtiofsd => (Box::new(MountedRoot::new(server, virtiofsd?)), asked),
        })
    }

    /// The hypervisor's view of the machine whose files are in `directory`.
    fn plan(&self, directory: &Directory) -> Plan {
        let device = |tag: String| ShareDevice { socket: directory.socket(&tag), tag };
        let further = (1..=self.shares.len()).map(share::tag);
        let mut kernel_parameters = Vec::new();
        if !self.spec.show_console {
            // An emulated serial line is slow enough to delay the boot; a panic is printed regardless.
            kernel_parameters.push("quiet".to_owned());
        }
        Plan {
            name: self.spec.name.clone(),
            cpus: self.spec.cpus,
            memory_mib: self.spec.memory_mib,
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
        if self.shares.is_empty() {
            return Ok(Vec::new());
        }
        let virtiofsd = self.tools.virtiofsd.clone()?;
        let owner = Owner::ourselves();
        let server = |(position, resolved): (usize, &Resolved)| {
            let socket = directory.socket(&share::tag(position + 1));
            let purpose = if resolved.share.read_only { Purpose::ReadOnly } else { Purpose::ReadWrite };
            Ok((virtiofsd.command(&resolved.directory, &socket, purpose, &owner)?, socket))
        };
        self.shares.iter().enumerate().map(server).collect()
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
    pub fn order(
        self,
        root: Box<dyn RootServer>,
        directory: Directory,
        ends: Ends,
        handover: Handover,
    ) -> Result<Order, Failure> {
        let plan = self.plan(&directory);
        plan.check()?;
        Ok(Order {
            root: (root, directory.socket(ROOT)),
            shares: self.share_servers(&directory)?,
            hypervisor: self.qemu(&plan),
            sockets: (plan.control, plan.monitor),
            console: plan.console,
            show_console: self.spec.show_console,
            setup: setup(&self.spec, &self.shares),
            directory,
            process: self.spec.process,
            ends: Some(ends),
            handover,
            ready_timeout: Duration::from_secs(self.spec.ready_timeout),
        })
    }
}

/// Who serves a root, and the counters of what it is asked where this process answers.
pub type Served = (Box<dyn RootServer>, Option<Arc<Stats>>);

/// What the guest is told to mount.
fn setup(spec: &Spec, shares: &[Resolved]) -> Setup {
    let share = |(position, resolved): (usize, &Resolved)| protocol::Share {
        tag: share::tag(position + 1),
        target: resolved.share.guest.clone(),
        read_only: resolved.share.read_only,
        file: resolved.file.clone(),
    };
    Setup {
        hostname: spec.name.clone(),
        seconds: 0,
        nanoseconds: 0,
        root_tag: ROOT.to_owned(),
        overlay: match spec.writes {
            Writes::Memory { limit } => Overlay::Memory { limit },
            Writes::Nowhere => Overlay::ReadOnly,
        },
        shares: shares.iter().enumerate().map(share).collect(),
    }
}

/// Runs a machine to its end in this process; gives the exit status of its command.
///
/// # Errors
/// As for [`Prepared::new`] and [`machine::run`].
pub fn run(
    prepared: Prepared,
    tree: Tree,
    directory: Directory,
    ends: Ends,
    handover: Handover,
    signals: Signals,
) -> Result<(u8, Option<Arc<Stats>>), Failure> {
    let (server, asked) = prepared.root_server(tree)?;
    let _socket = match &asked {
        Some(asked) => {
            let path = prepared.spec.stats.clone().unwrap_or_else(|| directory.stats_socket());
            Some(StatsSocket::bind(&path, Arc::clone(asked)).about("lamina run")?)
        }
        None => None,
    };
    let status = machine::run(prepared.order(server, directory, ends, handover)?, signals)?;
    Ok((status, asked))
}

/// What `lamina __supervise NAME new|again` does: runs the machine whose lock it is given, away from any terminal.
///
/// # Errors
/// As for [`run`].
pub fn supervise(name: &str, new: bool) -> Result<u8, Failure> {
    let (mut handover, lock) = Handover::take()?;
    let signals = Signals::catch()?;
    let mut directory = Directory::inherit(name, lock, new)?;
    let started = || {
        let spec = Spec::read(directory.path())?;
        let tree = spec.root.open(name)?;
        let ends = Ends::log(&directory.file(machine::OUTPUT_LOG))?;
        Ok((Prepared::new(spec, &signals)?, tree, ends))
    };
    match started() {
        Ok((prepared, tree, ends)) => run(prepared, tree, directory, ends, handover, signals).map(|(status, _)| status),
        Err(failure) => {
            directory.give_up(&failure);
            handover.failed(&failure);
            Err(failure)
        }
    }
}
