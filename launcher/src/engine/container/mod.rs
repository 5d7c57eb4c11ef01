//! A container: the image's processes on the host's kernel, in namespaces, started by an OCI runtime (crun or runc).
//!
//! It needs neither KVM nor root, and starts in a fraction of a second. It has the isolation of a container of rootless
//! podman and not that of a VM, because it shares the host's kernel; so `auto` never chooses it.
//!
//! The container's process 1 is the same init as in a VM. It is told the same things over the same channel, so commands,
//! copies, logs, changes and secrets work alike.

mod config;
mod ids;
mod limits;
mod options;
mod pasta;
mod probe;
mod remove;
mod runtime;
mod seccomp;
mod stage;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use composefs_fuse::UserNamespace;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub(crate) use self::remove::{REMOVE, remove, remove_here, remove_tree};
pub(crate) use self::stage::{CONTAINER, run as run_stage};

use self::config::Groups;
use self::ids::Ids;
use self::runtime::{Runtime, has_unified_cgroups};
use super::contract::{
    Accelerator, Capabilities, Description, Document, Engine, Event, Events, Exit, Host, MachineType, Running,
};
use super::plan::{Container as ContainerPlan, Format, NetworkDevice, Plan, Upper};
use super::request::{Choice, RunRequest};
use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::host::confine::{Account, Support, is_root_of_the_host};
use crate::host::json_file;
use crate::host::network::NetworkBackend;
use crate::host::process::{Process, ends_within};

/// How long a container may take from its start to its process 1.
const START: Duration = Duration::from_secs(30);
/// How long a container that was killed may take to end.
const REAP: Duration = Duration::from_secs(10);
/// How long the first process of a container that does not start has to end by itself, after it has said why.
const EXIT: Duration = Duration::from_secs(2);

/// Why a container does not start whose stage ends.
const EARLY: &str = "it ended before its first process was started";

/// What the users of every container should know.
const CAUTION: Option<&str> = Some("it shares the host's kernel");

/// The accelerator with subordinate ids, and the one without.
const HOST: &str = "host";
const SINGLE_ID: &str = "single-id";

#[derive(Debug)]
pub(super) struct Container;

impl Engine for Container {
    fn name(&self) -> &'static str {
        "container"
    }

    fn title(&self) -> &'static str {
        "container"
    }

    fn accelerators(&self) -> &'static [&'static str] {
        &[HOST, SINGLE_ID]
    }

    fn shared_memory(&self, _memory: u64) -> u64 {
        config::SHARED_MEMORY
    }

    /// The ways to lay what a container writes over its image.
    fn machines(&self) -> &'static [&'static str] {
        const { &[Format::ALL[0].name(), Format::ALL[1].name(), Format::ALL[2].name()] }
    }

    fn shares_kernel(&self) -> bool {
        true
    }

    fn program(&self) -> Result<PathBuf, Failure> {
        Runtime::find().map(|runtime| runtime.program)
    }

    /// Runs a container with the same init as every container, and lets it change a file.
    fn probe(&self, host: &Host<'_>, request: &RunRequest) -> Result<Capabilities, Failure> {
        let account = host.confine.1.as_ref();
        refuse_root(account)?;
        let runtime = Runtime::find()?;
        let forced = match &request.accelerator {
            Choice::Forced(name) => Some(name.as_str()),
            Choice::Auto => None,
        };
        let subordinate = Ids::subordinate((0, 0), account).map(drop);
        let single = forced == Some(SINGLE_ID) || forced.is_none() && subordinate.is_err();
        let wanted = match &request.machine {
            Choice::Forced(name) => Format::of(name),
            Choice::Auto => None,
        };
        let accelerator = if single { SINGLE_ID } else { HOST };
        let formats = probe::formats(self, &runtime, host, wanted, accelerator, request.asks_for(self.name()))?;
        let mut accelerators = Vec::new();
        let mut notices = Vec::new();
        // What it costs to run without it is said below, in one line.
        if subordinate.is_ok() || forced == Some(HOST) || host.thorough {
            let works = subordinate.as_ref().copied().map_err(ToString::to_string);
            accelerators.push(Accelerator { name: HOST, works, caution: CAUTION, root_by_disk: None });
        }
        if single || host.thorough {
            accelerators.push(Accelerator { name: SINGLE_ID, works: Ok(()), caution: CAUTION, root_by_disk: None });
        }
        if let Err(failure) = &subordinate {
            notices.push(format!(
                "container: without subordinate ids, all files of the image belong to root, and no process can change an \
                 owner or become another user: {failure}"
            ));
        }
        if (request.limited || host.thorough)
            && let Err(failure) = limits::possible()
        {
            notices.push(format!("container: --memory, --cpus and --pids-limit have no effect here: {failure}"));
        }
        let machine = |format: Format| MachineType {
            name: format.name(),
            most_devices: usize::MAX,
            advantage: format.advantage(),
            unfit: Vec::new(),
        };
        Ok(Capabilities {
            accelerators,
            machines: formats.into_iter().map(machine).collect(),
            shares: Ok(()),
            networks: vec![NetworkBackend::Passt, NetworkBackend::Host],
            vhost_user_network: false,
            confinement: Support::default(),
            shares_kernel: true,
            notices,
        })
    }

    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        let container = parts(plan)?;
        for bind in &container.binds {
            if bind.source.to_str().is_none() {
                return Err(Failure::new(bind.source.display(), "a container's configuration takes UTF-8 paths only"));
            }
        }
        options::check(&container.options, container.host_network)?;
        let format = format_of(plan)?;
        if format == Format::None && matches!(container.upper, Upper::Directory(_)) {
            return Err(Failure::new("--keep", "no overlay works in a user namespace here, so nothing can be written")
                .with_hint("install fuse-overlayfs (Debian: apt-get install fuse-overlayfs), or use a VM"));
        }
        Ok(())
    }

    fn describe(&self, plan: &Plan) -> Result<Description, Failure> {
        let spec = spec(plan, &Kept::of(plan)?)?;
        let file = file_of(parts(plan)?);
        let body = serde_json::to_value(&spec).about("JSON")?;
        Ok(Description {
            command: CommandLine::of_ourselves(CONTAINER)?.arg(&file),
            document: Some(Document {
                about: format!("the container, which {} runs", spec.runtime.display()),
                path: file,
                body,
            }),
        })
    }

    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure> {
        let container = parts(plan)?;
        let account = plan.confine.account.as_ref();
        let kept = Kept::of(plan)?;
        kept.write(container)?;
        if let (Upper::Directory(directory), Some(Account { uid, gid, .. })) = (&container.upper, account) {
            chown(directory, Some(*uid), Some(*gid)).about(directory.display())?;
        }
        let ids = kept.ids(account)?;
        let file = file_of(container);
        json_file::write(&file, &spec(plan, &kept)?)?;
        let control = UnixListener::bind(&plan.control).about(plan.control.display())?;
        let monitor = UnixListener::bind(&plan.monitor).about(plan.monitor.display())?;
        let stage = CommandLine::of_ourselves(CONTAINER)?.arg(&file);
        let command = limits::within(&container.limits, has_groups(container, &Runtime::find()?), stage)?;
        let of_network = Events::clone(&events);
        let mut process = Process::start(&command, None, &plan.log, move |mut process| {
            let (handle, told) = (process.handle(), Events::clone(&events));
            let connecting = std::thread::spawn(move || {
                if let Some(stream) = handle.accept(&control) {
                    told(Event::Connected(stream));
                }
            });
            let status = process.wait();
            let _ = connecting.join();
            let exit =
                if status.success() { Exit::PoweredOff } else { Exit::Ended { status, words: process.last_words() } };
            events(Event::Exited(exit));
        })?;
        let (first, network) = guide(&process, &monitor, plan, &ids, of_network).map_err(|failure| {
            if failure.cause() != EARLY {
                return failure;
            }
            // What the stage or the runtime wrote says more than that it ended. Its first process says it last, and the log
            // has it after the end.
            let _ = process.ends_within(EXIT);
            process.end();
            match process.last_words() {
                words if words.is_empty() => failure,
                words => Failure::new("container", words.trim_start_matches("lamina: ")),
            }
        })?;
        Ok(Box::new(Started { first, process, _network: network }))
    }
}

/// Returns what the server of a root must know about the user namespace of a container.
pub(crate) fn namespace(accelerator: &str, machine: &str) -> UserNamespace {
    UserNamespace {
        only_root: accelerator == SINGLE_ID,
        below_fuse_overlayfs: Format::of(machine) == Some(Format::FuseOverlayfs),
    }
}

/// Leads the stage of a container from its namespaces to its first process.
fn guide(
    process: &Process,
    monitor: &UnixListener,
    plan: &Plan,
    ids: &Ids,
    events: Events,
) -> Result<(OwnedFd, Option<Process>), Failure> {
    let ended = || Failure::new("container", EARLY);
    let stream = process.accept(monitor).ok_or_else(ended)?;
    stream.set_read_timeout(Some(START)).about("container")?;
    let mut lines = BufReader::new(stream.try_clone().about("container")?);
    if read(&mut lines)?.ok_or_else(ended)? != stage::ENTERED {
        return Err(ended());
    }
    ids.give_to(process.pid())?;
    let reaches_host = parts(plan)?.host_loopback;
    let network = match &plan.network {
        Some(NetworkDevice::Passt(_)) => {
            let log = plan.log.with_file_name("network.log");
            Some(pasta::start(process.pid(), &log, reaches_host, plan.confine.account.as_ref(), events)?)
        }
        _ => None,
    };
    writeln!(&stream, "{}", stage::GO).about("container")?;
    let started = read(&mut lines)?.ok_or_else(ended)?;
    let mut words = started.split(' ').skip(1);
    let first = words.next().and_then(|id| Pid::from_raw(id.parse().ok()?)).ok_or_else(ended)?;
    Ok((pidfd_open(first, PidfdFlags::empty()).about("container")?, network))
}

fn read(lines: &mut BufReader<UnixStream>) -> Result<Option<String>, Failure> {
    let mut line = String::new();
    let length = lines.read_line(&mut line).about("container")?;
    Ok((length > 0).then(|| line.trim_end().to_owned()))
}

/// A container that runs.
#[derive(Debug)]
struct Started {
    /// The first process of its namespace. When it ends, the kernel ends all others.
    first: OwnedFd,
    /// The stage, which reports its end.
    process: Process,
    _network: Option<Process>,
}

impl Running for Started {
    fn process(&self) -> &Process {
        &self.process
    }

    fn role(&self) -> &'static str {
        "container"
    }

    fn kill(&self) {
        // Fails if it has ended.
        let _ = pidfd_send_signal(&self.first, Signal::KILL);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill();
        // It counts as ended only when all other processes of its namespace have.
        if !ends_within(&self.first, REAP) {
            tracing::warn!("a container was killed, and has not ended");
        }
    }
}

/// How what a container keeps is laid over its image, which must stay the same for as long as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// How the image and what was written are laid over each other.
    format: Format,
    /// The user and the group of the container as which the user's own id appears.
    owner: (u32, u32),
    /// Whether it has no other ids.
    single_id: bool,
}

impl Kept {
    /// Returns what was recorded for a container that keeps what it writes; otherwise what the plan says.
    fn of(plan: &Plan) -> Result<Self, Failure> {
        let container = parts(plan)?;
        let single_id = plan.accelerator == SINGLE_ID;
        let owner = if single_id { (0, 0) } else { container.owner };
        let planned = Self { format: format_of(plan)?, owner, single_id };
        match record_of(container) {
            Some(file) if file.exists() => json_file::read(&file),
            _ => Ok(planned),
        }
    }

    fn write(&self, container: &ContainerPlan) -> Result<(), Failure> {
        match record_of(container) {
            Some(file) if !file.exists() => json_file::write(&file, self),
            _ => Ok(()),
        }
    }

    fn ids(&self, account: Option<&Account>) -> Result<Ids, Failure> {
        if self.single_id { Ok(Ids::single(account)) } else { Ids::subordinate(self.owner, account) }
    }
}

/// Returns the file that describes the directory with what a container keeps.
fn record_of(container: &ContainerPlan) -> Option<PathBuf> {
    match &container.upper {
        Upper::Directory(directory) => Some(directory.with_extension("json")),
        _ => None,
    }
}

fn parts(plan: &Plan) -> Result<&ContainerPlan, Failure> {
    plan.container.as_ref().ok_or_else(|| Failure::new("container", "this is the plan of a VM"))
}

fn format_of(plan: &Plan) -> Result<Format, Failure> {
    Format::of(plan.machine)
        .ok_or_else(|| Failure::new("container", format_args!("it has no machine type {}", plan.machine)))
}

/// The file with what the stage is told.
fn file_of(container: &ContainerPlan) -> PathBuf {
    container.place.join("container.json")
}

fn spec(plan: &Plan, kept: &Kept) -> Result<stage::Spec, Failure> {
    let container = parts(plan)?;
    let runtime = Runtime::find()?;
    let account = plan.confine.account.as_ref();
    let ids = kept.ids(account)?;
    let groups = has_groups(container, &runtime);
    let descriptors = config::descriptors(container, groups);
    let (state, bundle) = (container.place.join("run"), container.place.join("bundle"));
    Ok(stage::Spec {
        account: account.cloned(),
        place: container.place.clone(),
        control: plan.control.clone(),
        monitor: plan.monitor.clone(),
        root: container.root.clone(),
        init: container.init.clone(),
        upper: container.upper.clone(),
        format: kept.format,
        check: container.check.clone(),
        no_user_namespaces: container.init_system,
        host_network: container.host_network,
        last_group: ids.last_group(),
        system_controls: options::system_controls_of_stage(&container.options),
        fills: container
            .binds
            .iter()
            .filter(|bind| bind.fills)
            .map(|bind| (bind.source.clone(), bind.target.clone()))
            .collect(),
        groups,
        sees_groups: has_unified_cgroups(),
        hide_cgroups: runtime.needs_hidden_cgroups(),
        arguments: runtime.arguments(&plan.name, &state, &bundle, descriptors.len()),
        runtime: runtime.program,
        descriptors: descriptors.iter().map(|name| (*name).to_owned()).collect(),
        config: config::config(container, &ids, Groups::of(groups)),
    })
}

/// Returns whether a container has control groups of its own. They need what limits need, and runc would move its processes
/// to groups of its own choice.
fn has_groups(container: &ContainerPlan, runtime: &Runtime) -> bool {
    container.may_be_systemd && runtime.is_crun() && limits::possible().is_ok()
}

/// A container belongs to an ordinary user: one of root's would be less confined.
fn refuse_root(account: Option<&Account>) -> Result<(), Failure> {
    if is_root_of_the_host() && account.is_none() {
        return Err(Failure::new("container", "root does not run containers itself, and has no user to run them as")
            .with_hint("name a user with --as USER"));
    }
    Ok(())
}
