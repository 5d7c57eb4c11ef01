//! From a request to a machine: the pieces put together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::protocol::{self, Overlay, Process, RootSource, Setup};

use crate::accelerator;
use crate::failure::Failure;
use crate::file_share;
use crate::host::{self, Tools};
use crate::hypervisor::cloud_hypervisor::CloudHypervisor;
use crate::hypervisor::firecracker::Firecracker;
use crate::hypervisor::qemu::Qemu;
use crate::hypervisor::{self, CommandLine, Disk, Hypervisor, NetworkDevice, Plan, ShareDevice};
use crate::machine::{Directory, Order, RootServer, Signals};
use crate::network::{self, Carrier, Publish};
use crate::policy::{Decision, Request};
use crate::secret::Secret;
use crate::share::{self, Resolved};
use crate::virtiofsd::{Owner, Purpose};

/// The tag of the root's share, and the serial of the disk with its image.
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
    /// The further shares, in the order of [`share::arrange`].
    pub shares: Vec<Resolved>,
    /// Ports of the host that lead to the guest.
    pub published: Vec<Publish>,
    /// What is to be in `/run/secrets`.
    pub secrets: Vec<Secret>,
    /// The command.
    pub process: Process,
    /// Whether the kernel's console is shown.
    pub show_console: bool,
    /// How long the guest may take to get ready.
    pub ready_timeout: Duration,
}

/// The name of the socket of the network's carrier.
const NETWORK: &str = "network";

/// Everything that is settled before anything is started.
#[derive(Debug)]
pub struct Prepared {
    /// What is done, and why.
    pub decision: Decision,
    /// The programs and files it uses.
    pub tools: Tools,
    start: Start,
    /// The root's image, where the backend wants one.
    root_image: Option<PathBuf>,
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
        Ok(Self { decision, tools, start, root_image: None })
    }

    /// The same with the image that its root is read from.
    #[must_use]
    pub fn with_root_image(self, image: PathBuf) -> Self {
        Self { root_image: Some(image), ..self }
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
            shares: self.root_image.is_none().then(|| ROOT.to_owned()).into_iter().chain(further).map(device).collect(),
            disks: self.root_image.iter().map(|image| root_disk(image)).collect(),
            network: match self.decision.network {
                Carrier::None => None,
                Carrier::Slirp => Some(NetworkDevice::Slirp(network::slirp(&self.start.published))),
                Carrier::Passt => Some(NetworkDevice::Passt(directory.socket(NETWORK))),
            },
            control: directory.socket("control"),
            monitor: directory.socket("monitor"),
            console: directory.file("console.log"),
        }
    }

    fn hypervisor(&self) -> Qemu {
        Qemu {
            program: self.tools.qemu.clone(),
            machine: self.decision.machine,
            accelerator: self.decision.accelerator,
            tsc_khz: accelerator::tsc_khz(),
        }
    }

    /// The servers of the further shares and of the network, each with its socket.
    fn servers(&self, directory: &Directory) -> Result<Vec<(CommandLine, PathBuf)>, Failure> {
        let mut servers = Vec::new();
        let owner = Owner::ourselves();
        for (position, resolved) in self.start.shares.iter().enumerate() {
            let virtiofsd = self.tools.virtiofsd.clone()?;
            let tag = share::tag(position + 1);
            let socket = directory.socket(&tag);
            let read_only = resolved.share.read_only;
            let command = if resolved.file.is_some() {
                let around = directory.file(&tag);
                let server = virtiofsd.command(&around, &socket, Purpose::File { read_only }, &owner)?;
                file_share::command(&resolved.directory, &around, read_only, server)?
            } else {
                let purpose = if read_only { Purpose::ReadOnly } else { Purpose::ReadWrite };
                virtiofsd.command(&resolved.directory, &socket, purpose, &owner)?
            };
            servers.push((command, socket));
        }
        if self.decision.network == Carrier::Passt {
            let socket = directory.socket(NETWORK);
            servers.push((network::passt(&network::find_passt()?, &socket, &self.start.published), socket));
        }
        Ok(servers)
    }

    /// What would be started, as a shell would take it: the servers, then QEMU, then (for who uses it) the
    /// same machine under Cloud Hypervisor.
    ///
    /// # Errors
    /// The plan does not fit the hypervisor.
    pub fn describe(&self, root: &dyn RootServer, directory: &Directory) -> Result<String, Failure> {
        let plan = self.plan(directory);
        let qemu = self.hypervisor();
        hypervisor::check(&qemu, &plan)?;
        let mut text: String = self.decision.reasons.iter().map(|reason| format!("# {reason}\n")).collect();
        let root = root.command_line(&directory.socket(ROOT), directory)?;
        let servers = self.servers(directory)?.into_iter().map(|(server, _)| server);
        for command in root.into_iter().chain(servers).chain([qemu.command(&plan)?]) {
            text.push_str(&command.to_shell());
            text.push('\n');
        }
        let (program, version) = host::cloud_hypervisor().unwrap_or_else(|_| ("cloud-hypervisor".into(), u32::MAX));
        let config = directory.file("firecracker.json");
        // What carries their packets needs rights on the host that this program does without.
        let plan = Plan { network: None, ..plan };
        text.push_str(&other(&CloudHypervisor { program, version }, &plan)?);
        text.push_str(&other(&Firecracker { program: "firecracker".into(), config }, &plan)?);
        Ok(text)
    }

    /// The machine, ready to run.
    ///
    /// # Errors
    /// The plan does not fit the hypervisor.
    pub fn order(self, root: Box<dyn RootServer>, directory: Directory) -> Result<Order, Failure> {
        let plan = self.plan(&directory);
        let qemu = self.hypervisor();
        hypervisor::check(&qemu, &plan)?;
        Ok(Order {
            root: (root, directory.socket(ROOT)),
            shares: self.servers(&directory)?,
            hypervisor: qemu.command(&plan)?,
            sockets: (plan.control, plan.monitor),
            console: plan.console,
            show_console: self.start.show_console,
            setup: setup(&self.start, self.root_image.is_some(), self.decision.network)?,
            directory,
            name: self.start.name,
            root_name: self.start.root_name,
            process: self.start.process,
            ready_timeout: self.start.ready_timeout,
        })
    }
}

/// The same machine by a hypervisor that is not started here, or why it cannot be.
fn other(hypervisor: &dyn Hypervisor, plan: &Plan) -> Result<String, Failure> {
    if let Err(failure) = hypervisor::check(hypervisor, plan) {
        return Ok(format!("# not by {failure}\n"));
    }
    let mut text = format!("# the same by {}\n{}\n", hypervisor.name(), hypervisor.command(plan)?.to_shell());
    if let Some(document) = hypervisor.document(plan)? {
        text.push_str(&format!("# {} ({})\n{:#}\n", document.about, document.path.display(), document.body));
    }
    Ok(text)
}

/// The disk with a root's image.
fn root_disk(image: &Path) -> Disk {
    Disk { serial: ROOT.to_owned(), path: image.to_owned(), read_only: true }
}

/// What the guest is told to mount.
fn setup(start: &Start, root_is_image: bool, carrier: Carrier) -> Result<Setup, Failure> {
    let share = |(position, resolved): (usize, &Resolved)| protocol::Share {
        tag: share::tag(position + 1),
        target: resolved.share.guest.clone(),
        read_only: resolved.share.read_only,
        file: resolved.file.clone(),
    };
    Ok(Setup {
        hostname: start.name.clone(),
        seconds: 0,
        nanoseconds: 0,
        root: if root_is_image { RootSource::Image(ROOT.to_owned()) } else { RootSource::Share(ROOT.to_owned()) },
        overlay: start.overlay,
        shares: start.shares.iter().enumerate().map(share).collect(),
        network: (carrier != Carrier::None).then(network::in_guest),
        secrets: start.secrets.iter().map(Secret::read).collect::<Result<_, _>>()?,
    })
}
