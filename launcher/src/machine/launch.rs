//! Turns a spec into a running machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use composefs_fuse::linux::StatsSocket;
use composefs_fuse::stats::Stats;
use guest_protocol::{Ending, Overlay, Process, RootSource, Setup};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::engine::policy::{self, Candidate, Decision};
use crate::engine::{
    self, Backend, Bind, Choice, Container, ContainerRoot, Disk, Engine, Host, HostCapabilities, NetworkDevice, Plan,
    RunRequest, ServedDisk, ShareDevice, Upper, table,
};
use crate::failure::{About, Failure};
use crate::host::confine::{self, Account, Confined, Confinement, Lack};
use crate::host::initramfs;
use crate::host::network::{self, NetworkBackend};
use crate::host::resolver::Resolver;
use crate::host::{self, Tools};
use crate::machine::kept;
use crate::machine::volumes;
use crate::machine::{self, Directory, Listeners, Machine, ReadyPipe, RunConfig, Signals, Stdio};
use crate::root::{self, ROOT, RootDevice, RootServer, Served};
use crate::spec::secret::Secret;
use crate::spec::share::{self, Resolved, Share};
use crate::spec::{Root, Spec, Tree, Writes};

/// The serial of the disk with what the machine has written.
const KEPT: &str = "kept";

/// The name of the socket of the network's server.
const NETWORK: &str = "network";

/// The name of the socket of the filter before the network's server.
const FILTER: &str = "filter";

/// The counters of a root's requests, if this process answers them.
pub(crate) type Counters = Option<Arc<Stats>>;

/// A spec, and what was decided for it on this host, before anything is started.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The decision, with its reasons.
    decision: Decision,
    /// How its programs are confined.
    confine: confine::Decision,
    /// What executes the guest.
    engine: &'static dyn Engine,
    /// The programs and files it uses.
    tools: Tools,
    spec: Spec,
    /// The further shares, in the order of [`share::arrange`].
    shares: Vec<Resolved>,
    /// The locks of the named volumes among them.
    volumes: Vec<File>,
    /// What the guest has as its root. Known once the root is open.
    root_device: RootDevice,
    /// The user and group that the command runs as, which own the shares. Known once the root is open.
    account: (u32, u32),
}

impl Prepared {
    /// Examines the host and decides how to run the machine.
    ///
    /// # Errors
    /// Something is missing, or what was forced cannot work.
    pub(crate) fn new(spec: Spec, signals: &Signals) -> Result<Self, Failure> {
        let shares = spec.shares.iter().map(Share::resolve).collect::<Result<Vec<_>, _>>()?;
        let shares = share::arrange(shares)?;
        let cache = machine::cache_home()?;
        let tools =
            Tools::find(spec.kernel.as_deref(), &cache, spec.request.wanted(!table::forces_container(&spec.request)))?;
        let account = confine::unprivileged(spec.request.run_as.as_deref())?;
        let volumes = shares.iter().map(|share| volumes::hold(&share.share.host, account.as_ref()));
        let volumes = volumes.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        let confine = (spec.request.confine, account.clone());
        let host =
            Host { boot: tools.boot.as_ref(), cache: &cache, check: &|| signals.check(), confine, thorough: false };
        let candidates = table::candidates(&host, &spec.request)?;
        let capabilities = HostCapabilities::of(&tools, &spec.request, &cache);
        let mut decision = policy::decide(&capabilities, &candidates, &spec.request)?;
        let engine = table::find(decision.engine)?;
        if !engine.shares_kernel() {
            host::has_memory(spec.memory_mib)?;
        }
        // A container is confined by its runtime.
        let confine = match engine.shares_kernel() {
            true => confine::Decision { support: None, account },
            false => decide_confinement(&spec, &mut decision, &candidates, account)?,
        };
        Ok(Self {
            decision,
            confine,
            engine,
            tools,
            spec,
            shares,
            volumes,
            root_device: RootDevice::FileSystem,
            account: (0, 0),
        })
    }

    /// Returns a server for the root `tree`. Creates what it serves from, if that does not exist yet.
    ///
    /// # Errors
    /// As for [`root::serve`].
    pub(crate) fn root_server(
        &mut self,
        tree: Tree,
        signals: &Signals,
    ) -> Result<(Box<dyn RootServer>, Counters), Failure> {
        // If the root does not have the user, the guest refuses it and names it.
        if let Ok(account) = tree.account(self.spec.process.user.as_deref().unwrap_or_default()) {
            self.account = (account.uid, account.gid);
        }
        // A volume belongs to the user to whom the image gives the directory there, as in docker.
        for Resolved { share, .. } in self.shares.iter_mut().filter(|resolved| volumes::is_volume(&resolved.share.host))
        {
            if let Some((uid, gid)) = tree.owner(&share.guest) {
                share.uid.get_or_insert(uid);
                share.gid.get_or_insert(gid);
            }
        }
        if self.engine.shares_kernel() {
            let Served { server, stats, .. } =
                root::serve_inside(tree, engine::namespace(self.decision.accelerator, self.decision.machine));
            return Ok((server, stats));
        }
        let Served { server, stats, device } = root::serve(
            tree,
            (self.decision.backend, self.engine.served_disk_queues(self.spec.cpus)),
            self.tools.virtiofsd.clone(),
            self.confine.clone(),
            &signals.caught(),
        )
        .and_then(|served| signals.check().map(|()| served))?;
        self.root_device = device;
        Ok((server, stats))
    }

    /// Returns the engine's plan for the machine whose files are in `directory`.
    fn plan(&self, directory: &Directory) -> Result<Plan, Failure> {
        if self.engine.shares_kernel() {
            return self.container_plan(directory);
        }
        let boot = self.tools.boot.as_ref().map_err(Clone::clone)?;
        let device = |tag: String| ShareDevice { socket: self.socket(directory, &tag), tag };
        let further = (1..=self.shares.len()).map(share::tag);
        let disk = |serial: &str, path, read_only| Disk { serial: serial.to_owned(), path, read_only };
        let (root_share, served_disk, root_disk) = match &self.root_device {
            RootDevice::FileSystem => (Some(device(ROOT.to_owned())), None, None),
            RootDevice::ServedDisk { queues } => {
                let (serial, socket) = (ROOT.to_owned(), self.socket(directory, ROOT));
                (None, Some(ServedDisk { serial, socket, queues: *queues }), None)
            }
            RootDevice::ImageFile(image) => (None, None, Some(disk(ROOT, image.clone(), true))),
        };
        let kept = matches!(self.spec.writes, Writes::Disk { .. });
        let kept_disk = kept.then(|| disk(KEPT, directory.file(kept::DISK), false));
        let mut kernel_parameters = Vec::new();
        if !self.spec.show_console {
            // An emulated serial line is slow enough to delay the boot; a panic is printed regardless.
            kernel_parameters.push("quiet".to_owned());
        }
        Ok(Plan {
            name: self.spec.name.clone(),
            accelerator: self.decision.accelerator,
            machine: self.decision.machine,
            cpus: self.spec.cpus,
            memory_mib: self.spec.memory_mib,
            kernel: self.engine.kernel(&boot.kernel, &machine::cache_home()?)?,
            initramfs: boot.initramfs.clone(),
            kernel_parameters,
            shares: root_share.into_iter().chain(further.map(device)).collect(),
            served_disks: served_disk.into_iter().collect(),
            disks: root_disk.into_iter().chain(kept_disk).collect(),
            network: match self.decision.network {
                NetworkBackend::None | NetworkBackend::Host => None,
                NetworkBackend::Slirp => Some(NetworkDevice::Slirp),
                NetworkBackend::Passt if self.decision.vhost_user_network => {
                    Some(NetworkDevice::VhostUser(self.socket(directory, NETWORK)))
                }
                NetworkBackend::Passt if self.filters() => Some(NetworkDevice::Passt(directory.socket(FILTER))),
                NetworkBackend::Passt => Some(NetworkDevice::Passt(self.socket(directory, NETWORK))),
            },
            control: directory.socket("control"),
            monitor: directory.socket("monitor"),
            console: directory.console_pipe(),
            log: directory.file("hypervisor.log"),
            confine: self.confine.clone(),
            container: None,
        })
    }

    /// Returns the plan of a container, which has mounts where a VM has devices.
    fn container_plan(&self, directory: &Directory) -> Result<Plan, Failure> {
        let bind = |Resolved { directory, share, .. }: &Resolved| Bind {
            source: directory.clone(),
            target: share.guest.clone(),
            read_only: share.read_only,
            fills: share.fills && !share.read_only,
        };
        let place = directory.socket(ROOT).parent().map(Path::to_owned).unwrap_or_default();
        let root = directory.socket(ROOT);
        let read_only = self.spec.writes == Writes::Nowhere;
        if let Some(account) = &self.confine.account {
            let shared = self.shares.iter().map(|resolved| &resolved.directory);
            let tree = match &self.spec.root {
                Root::Directory(path) => Some(path),
                Root::Image { .. } => None,
            };
            let closed = |path: &PathBuf| Some(closed_to(Some(account), path, &account.first_closed(path)?));
            if let Some(failure) = shared.chain(tree).find_map(closed) {
                return Err(failure);
            }
        }
        let container = Container {
            root: match &self.spec.root {
                Root::Directory(path) => ContainerRoot::Directory(path.clone()),
                Root::Image { .. } => ContainerRoot::View(root),
            },
            upper: match self.spec.writes {
                Writes::Memory { limit } => Upper::Memory { limit },
                Writes::Disk { .. } => Upper::Directory(directory.file(kept::DIRECTORY)),
                Writes::Nowhere => Upper::Nowhere,
            },
            binds: self.shares.iter().map(bind).collect(),
            volumes: if read_only { self.spec.image_volumes.clone() } else { Vec::new() },
            has_secrets: !self.spec.secrets.is_empty(),
            owner: self.owner()?,
            init: initramfs::init(&machine::cache_home()?)?,
            place,
            check: None,
            host_loopback: self.spec.request.host_loopback,
            host_network: self.decision.network == NetworkBackend::Host,
            hostname: self.spec.hostname(),
            options: self.spec.options.clone(),
            added_capabilities: self.spec.process.privileges.added_capabilities,
            init_system: self.spec.process.is_init_system(),
            may_be_systemd: self.spec.process.may_be_systemd(),
            limits: self.spec.limits,
        };
        Ok(Plan {
            name: self.spec.name.clone(),
            accelerator: self.decision.accelerator,
            machine: self.decision.machine,
            network: (self.decision.network == NetworkBackend::Passt)
                .then(|| NetworkDevice::Passt(directory.socket(NETWORK))),
            control: directory.socket("control"),
            monitor: directory.socket("monitor"),
            console: directory.console_pipe(),
            log: directory.file("container.log"),
            confine: self.confine.clone(),
            container: Some(container),
            ..Plan::default()
        })
    }

    /// Returns the user and group of a container to which this user's own files belong: those of the command, as in a VM,
    /// if files are shared. A named volume has files of all users of the container.
    fn owner(&self) -> Result<(u32, u32), Failure> {
        let (uid, gid) = self.account;
        let shared = self.shares.iter().filter(|Resolved { share, .. }| !volumes::is_volume(&share.host));
        let mut owners = shared.map(|Resolved { share, .. }| (share.uid.unwrap_or(uid), share.gid.unwrap_or(gid)));
        let Some(first) = owners.next() else { return Ok((0, 0)) };
        match owners.find(|other| *other != first) {
            None => Ok(first),
            Some(other) => Err(Failure::new(
                "-v",
                format_args!(
                    "all shares of a container have one owner, not {}:{} and {}:{}",
                    first.0, first.1, other.0, other.1
                ),
            )
            .with_hint("give all shares the same uid= and gid=, or use a VM")),
        }
    }

    /// Returns what the user is told about how the machine is run: all reasons if asked for, otherwise only what is
    /// unexpected.
    #[must_use]
    pub(crate) fn notice(&self) -> Vec<String> {
        if self.spec.request.explain { self.decision.reasons.clone() } else { self.decision.notices.clone() }
    }

    /// Returns whether the guest's packets pass a filter.
    fn filters(&self) -> bool {
        let open = self.spec.request.host_loopback;
        !self.engine.shares_kernel()
            && !self.decision.vhost_user_network
            && self.decision.network == NetworkBackend::Passt
            && self.tools.passt.as_ref().is_ok_and(|passt| passt.needs_filter(open))
    }

    /// Returns the socket of a server of this machine. One that runs as another user gets a directory for it.
    fn socket(&self, directory: &Directory, tag: &str) -> PathBuf {
        let ours = tag == ROOT && matches!(self.decision.backend, Backend::Direct | Backend::Block);
        match self.confine.account {
            Some(_) if !ours => directory.socket_in_own_directory(tag),
            _ => directory.socket(tag),
        }
    }

    /// Returns the servers of the further shares and of the network, each with its socket.
    fn servers(&self, directory: &Directory) -> Result<Vec<(Confined, PathBuf)>, Failure> {
        let mut servers = Vec::new();
        if self.engine.shares_kernel() {
            return Ok(servers);
        }
        let (uid, gid) = self.account;
        let account = self.confine.account.as_ref();
        let confined = |command, socket: PathBuf| {
            let own = socket.parent().map(Path::to_owned).unwrap_or_default();
            ((command, Confinement::of_server(account.cloned(), own)), socket)
        };
        let in_place = |socket: &Path| confine::socket_in_place(socket, account);
        for (position, Resolved { directory: shared, file, share }) in self.shares.iter().enumerate() {
            let tag = share::tag(position + 1);
            let socket = self.socket(directory, &tag);
            let owner = host::share::owner(share.uid.unwrap_or(uid), share.gid.unwrap_or(gid), account.is_some());
            if let Some(closed) = account.and_then(|account| account.first_closed(shared)) {
                return Err(closed_to(account, shared, &closed));
            }
            let command = match file {
                Some(_) => {
                    let around = directory.file(&tag);
                    host::share::command_for_file(shared, &around, &in_place(&socket), share.read_only, owner)?
                }
                None => host::share::command(shared, &in_place(&socket), share.read_only, owner)?,
            };
            servers.push(confined(command, socket));
        }
        if self.decision.network == NetworkBackend::Passt {
            let socket = self.socket(directory, NETWORK);
            let passt = self.tools.passt.clone()?;
            let as_root = rustix::process::geteuid().is_root() && account.is_none();
            let vhost_user = self.decision.vhost_user_network;
            let command = passt.command(&in_place(&socket), self.spec.request.host_loopback, as_root, vhost_user);
            servers.push(confined(command, socket));
        }
        Ok(servers)
    }

    /// Returns what would be started, as shell commands: the servers, the engine, and then the same machine for each
    /// other engine.
    ///
    /// # Errors
    /// The engine cannot carry out the plan.
    pub(crate) fn describe(&self, root: &dyn RootServer, directory: &Directory) -> Result<String, Failure> {
        let mut plan = self.plan(directory)?;
        if let Some(NetworkDevice::Passt(socket)) = &mut plan.network {
            // Nothing listens at the filter's socket for those who start the programs themselves.
            *socket = self.socket(directory, NETWORK);
        }
        engine::check(self.engine, &plan)?;
        let mut text: String = self.decision.reasons.iter().map(|reason| format!("# {reason}\n")).collect();
        let root = root.command_line(&self.socket(directory, ROOT), &directory.mount_point())?;
        let servers = self.servers(directory)?.into_iter().map(|((server, _), _)| server);
        let description = self.engine.describe(&plan)?;
        for command in root.into_iter().chain(servers) {
            text.push_str(&format!("{}\n", command.to_shell()));
        }
        text.push_str(&description.to_string());
        let alike = |engine: &&dyn Engine| {
            engine.name() != self.engine.name() && engine.shares_kernel() == self.engine.shares_kernel()
        };
        let kernel = |engine: &dyn Engine| {
            let boot = self.tools.boot.as_ref().map_err(Clone::clone)?;
            engine.kernel(&boot.kernel, &machine::cache_home()?)
        };
        for engine in table::ENGINES.into_iter().filter(alike) {
            text.push_str(&other(engine, &plan, kernel));
        }
        Ok(text)
    }

    /// Creates everything that the run in `directory` needs. Also returns the counters of its root.
    ///
    /// # Errors
    /// A port is in use, the engine cannot carry out the spec, or as for [`Prepared::root_server`].
    fn run_config(
        mut self,
        tree: Tree,
        directory: &Directory,
        signals: &Signals,
    ) -> Result<(RunConfig, Counters), Failure> {
        let listeners = Listeners::bind(&self.spec.published)?;
        let (root, counters) = self.root_server(tree, signals)?;
        let stats = match &counters {
            Some(counters) => {
                let path = self.spec.stats.clone().unwrap_or_else(|| directory.stats_socket());
                Some(StatsSocket::bind(&path, Arc::clone(counters)).about("lamina run")?)
            }
            None => None,
        };
        let plan = self.plan(directory)?;
        engine::check(self.engine, &plan)?;
        let setup = self.setup(&plan)?;
        let socket = self.socket(directory, ROOT);
        let volumes = std::mem::take(&mut self.volumes);
        let config = RunConfig {
            root: (root, socket),
            _stats: stats,
            _volumes: volumes,
            shares: self.servers(directory)?,
            engine: (self.engine, plan),
            listeners,
            filter: self.filters().then(|| (directory.socket(FILTER), self.socket(directory, NETWORK))),
            log_size: self.spec.log_max_size,
            show_console: self.spec.show_console,
            setup,
            secrets: self.spec.secrets.iter().map(Secret::read).collect::<Result<_, _>>()?,
            process: self.spec.process,
            ready: self.spec.ready,
            ready_timeout: Duration::from_secs(self.spec.ready_timeout),
        };
        Ok((config, counters))
    }

    /// Returns what the guest is told to mount.
    fn setup(&self, plan: &Plan) -> Result<Setup, Failure> {
        let serial = |name: &str| match plan.disks.iter().find(|disk| disk.serial == name) {
            Some(disk) => self.engine.serial(disk),
            None => Ok(name.to_owned()),
        };
        let share = |(position, resolved): (usize, &Resolved)| guest_protocol::Share {
            tag: share::tag(position + 1),
            target: resolved.share.guest.clone(),
            read_only: resolved.share.read_only,
            fill: resolved.share.fills && !resolved.share.read_only,
            file: resolved.file.clone(),
        };
        Ok(Setup {
            hostname: self.spec.hostname(),
            seconds: 0,
            nanoseconds: 0,
            root: match self.root_device {
                RootDevice::FileSystem => RootSource::Share(ROOT.to_owned()),
                RootDevice::ServedDisk { .. } | RootDevice::ImageFile(_) => RootSource::Image(serial(ROOT)?),
            },
            overlay: match self.spec.writes {
                Writes::Memory { limit } => Overlay::Memory { limit },
                Writes::Disk { .. } => Overlay::Disk { serial: serial(KEPT)? },
                Writes::Nowhere => Overlay::ReadOnly,
            },
            // A container has its shares from the beginning.
            shares: match self.engine.shares_kernel() {
                true => Vec::new(),
                false => self.shares.iter().enumerate().map(share).collect(),
            },
            network: match self.decision.network {
                NetworkBackend::None => None,
                NetworkBackend::Host => Some(network::of_host()),
                NetworkBackend::Passt | NetworkBackend::Slirp => {
                    Some(network::in_guest(self.spec.request.host_loopback))
                }
            }
            .map(|network| self.spec.resolver.apply(network)),
            directories: self.spec.process.cwd.iter().chain(&self.spec.image_volumes).cloned().collect(),
            volumes: if self.spec.writes == Writes::Nowhere { self.spec.image_volumes.clone() } else { Vec::new() },
            init_system: self.spec.process.is_init_system(),
            user: self.spec.process.user.clone(),
            options: Box::new(self.spec.options.clone()),
        })
    }
}

/// Returns the failure for a share that the user whom a machine runs as cannot reach.
fn closed_to(account: Option<&Account>, shared: &Path, closed: &Path) -> Failure {
    let name = account.map_or("", |account| &account.name);
    let cause = format!("the user {name}, whom machines of root run as, has no access to {}", closed.display());
    Failure::new(format_args!("-v {}", shared.display()), cause)
        .with_hint("give that user access, or name another one with --as USER")
}

/// Decides how the machine's programs are confined, and adds the reason to `decision`.
fn decide_confinement(
    spec: &Spec,
    decision: &mut Decision,
    candidates: &[Candidate],
    account: Option<Account>,
) -> Result<confine::Decision, Failure> {
    let found = candidates.iter().find(|candidate| candidate.engine == decision.engine);
    let support =
        found.and_then(|candidate| Some(candidate.can.as_ref().ok()?.confinement.clone())).unwrap_or_default();
    let slirp = (decision.network == NetworkBackend::Slirp).then(|| Lack {
        part: "no network namespace".to_owned(),
        cause: "slirp carries the guest's packets from within the hypervisor".to_owned(),
        remedy: "install passt, or use --network none".to_owned(),
    });
    // Root starts it in namespaces, and for an unpacked tree it enters some itself.
    let by_user = account.is_none() && decision.backend == Backend::Virtiofsd && !support.landlock;
    let virtiofsd = by_user.then(|| Lack {
        part: "virtiofsd reaches all files of its user".to_owned(),
        cause: "the owners of files would be unknown in namespaces, and the kernel has no Landlock".to_owned(),
        remedy: "use --backend direct or block, or a kernel with Landlock".to_owned(),
    });
    let further: Vec<Lack> = slirp.into_iter().chain(virtiofsd).collect();
    let (confine, reason, notice) = confine::Decision::new(spec.request.confine, &support, &further, account)?;
    decision.reasons.push(reason);
    decision.notices.extend(notice);
    Ok(confine)
}

/// Describes the same machine for another engine, or says why that engine cannot run it. That is no failure, because
/// the other engine is not used. `kernel` finds what an engine boots.
fn other(engine: &dyn Engine, plan: &Plan, kernel: impl FnOnce(&dyn Engine) -> Result<PathBuf, Failure>) -> String {
    let described = engine::check(engine, plan).and_then(|()| {
        // A container has none.
        let kernel = if engine.shares_kernel() { PathBuf::new() } else { kernel(engine)? };
        engine.describe(&Plan { kernel, ..plan.clone() })
    });
    match described {
        Ok(description) => format!("# the same by {}\n{description}", engine.title()),
        Err(failure) => {
            let complaint = failure.complaint().replace('\n', " ");
            let own = format!("{}: ", engine.title());
            format!("# not by {own}{}\n", complaint.strip_prefix(&own).unwrap_or(&complaint))
        }
    }
}

/// Runs a machine to its end in this process. Returns how its command ended, and the counters of its root.
///
/// # Errors
/// Something that the machine needs is missing, or as for [`machine::run`].
pub(crate) fn run(
    prepared: Prepared,
    tree: Tree,
    mut directory: Directory,
    stdio: Stdio,
    mut ready_pipe: ReadyPipe,
    signals: Signals,
) -> Result<(Ending, Counters), Failure> {
    // Before this process's files in /proc are closed to it.
    if let Err(failure) = confine::no_core_dumps() {
        directory.warn(&failure.to_string());
    }
    // A program that takes core dumps from a pipe gets none of this process either (core(5)).
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("core dumps of this process cannot be prevented: {error}");
    }
    directory.set_engine(prepared.engine.name());
    if matches!(prepared.decision.network, NetworkBackend::Passt | NetworkBackend::Slirp)
        && let Some(warning) = Resolver::of_host().warning()
    {
        directory.warn(&warning);
    }
    match prepared.run_config(tree, &directory, &signals) {
        Ok((config, counters)) => Ok((machine::run(config, directory, stdio, ready_pipe, signals)?, counters)),
        Err(failure) => {
            directory.give_up(&failure);
            ready_pipe.failed(&failure);
            Err(failure)
        }
    }
}

/// Runs one of init's tools in a machine: in its guest if the machine runs, otherwise in a new guest that has only its
/// root and its disk. Returns the tool's exit status.
///
/// # Errors
/// The machine does not run and has no disk, or as for [`run`].
pub(crate) fn run_tool(machine: &Machine, tool: Process, stdio: Stdio, signals: Signals) -> Result<u8, Failure> {
    if machine.runs() {
        return Ok(machine.exec(tool, stdio, signals)?.shell_status());
    }
    let name = &machine.record.name;
    let spec = Spec::read_of(name, &machine.directory()?)?;
    if !matches!(spec.writes, Writes::Disk { .. }) {
        return Err(Failure::new(format_args!("machine {name}"), "it has ended, and what it wrote was in its memory")
            .with_hint("run it with --keep"));
    }
    let request = RunRequest { network: Choice::Forced(NetworkBackend::None), shares: 0, ..spec.request };
    let (shares, published, secrets) = (Vec::new(), Vec::new(), Vec::new());
    let spec = Spec { shares, published, secrets, process: tool, request, show_console: false, stats: None, ..spec };
    let directory = Directory::reopen(name)?;
    let tree = spec.root.open(name);
    let outcome = tree.and_then(|tree| {
        let prepared = Prepared::new(spec, &signals)?;
        run(prepared, tree, directory, stdio, ReadyPipe::none(), signals)
    });
    // Restores what its record said about how it ended.
    machine.restore()?;
    outcome.map(|(ending, _)| ending.shell_status())
}

/// Runs the machine whose spec is in `directory` to its end in this process. `join` may change how the spec's command
/// is run, and returns its standard streams.
///
/// # Errors
/// As for [`run`].
pub(crate) fn take_up(
    mut directory: Directory,
    join: impl FnOnce(&mut Spec, &Directory) -> Result<Stdio, Failure>,
    mut ready_pipe: ReadyPipe,
    signals: Signals,
) -> Result<Ending, Failure> {
    let started = || {
        let mut spec = Spec::read(directory.path())?;
        let tree = spec.root.open(directory.name())?;
        let stdio = join(&mut spec, &directory)?;
        Ok((Prepared::new(spec, &signals)?, tree, stdio))
    };
    match started() {
        Ok((prepared, tree, stdio)) => {
            ready_pipe.tell(prepared.notice());
            run(prepared, tree, directory, stdio, ready_pipe, signals).map(|(ending, _)| ending)
        }
        Err(failure) => {
            directory.give_up(&failure);
            ready_pipe.failed(&failure);
            Err(failure)
        }
    }
}

/// What `lamina __supervise NAME new|again` does: runs the machine whose lock it is given, without a terminal.
///
/// # Errors
/// As for [`run`].
pub(crate) fn supervise(name: &str, new: bool) -> Result<u8, Failure> {
    let (ready_pipe, lock) = ReadyPipe::take()?;
    let signals = Signals::catch()?;
    let directory = Directory::inherit(name, lock, new)?;
    let log = |spec: &mut Spec, directory: &Directory| {
        let log = machine::log_stdio(&directory.file(machine::OUTPUT_LOG), spec.log_max_size)?;
        Ok(if spec.keeps_input_open { log.with_open_input().about("pipe")? } else { log })
    };
    take_up(directory, log, ready_pipe, signals).map(Ending::shell_status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_for_an_engine_that_is_only_printed_is_a_remark() {
        let engine = table::find("cloud-hypervisor").unwrap();
        let mut plan = engine::example(1);
        let kernel = |_: &dyn Engine| Ok(PathBuf::from("/boot/vmlinuz"));
        assert!(other(engine, &plan, kernel).starts_with("# the same by Cloud Hypervisor\ncloud-hypervisor "));
        for odd in ["/run/a\"b", "/run/a[b]", "/run/a\nb "] {
            plan.shares[0].socket = odd.into();
            let printed = other(engine, &plan, kernel);
            assert!(printed.starts_with("# not by Cloud Hypervisor: ") && printed.lines().count() == 1, "{printed}");
        }
    }
}
