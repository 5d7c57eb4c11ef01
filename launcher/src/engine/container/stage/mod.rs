//! The stage of a container between its supervisor and the OCI runtime: `lamina __container FILE`.
//!
//! It enters namespaces of its own, mounts the container's root there, and runs the runtime in them:
//!
//! 1. It connects to the sockets of its supervisor, because it cannot reach them later. If root starts it, it then becomes
//!    an ordinary user.
//! 2. It enters a user and a mount namespace, and a network namespace unless the container uses the host's network, and
//!    says so. The supervisor gives ids to the user namespace and a network card to the network namespace, and lets it go
//!    on.
//! 3. It mounts the view by FUSE and sends the device to the server of the root. A mount that is made in a user namespace
//!    has the owners of that namespace, so user 33 of the image is user 33 in the container.
//! 4. It mounts an overlay over the view, and starts the runtime as the first process of a process namespace. When that
//!    process ends, the kernel ends every process in the namespace, and with the last process the mounts go away.
//!
//! Everything is mounted in a file system in memory over the directory of the machine's sockets, and only in the mount
//! namespace: the host sees none of it.

mod fill;
mod groups;
mod mounts;
mod network;
mod root;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::container::ids::become_root;
use crate::engine::plan::{ContainerRoot, Format, Upper};
use crate::failure::{About, Failure};
use crate::host::confine::Account;
use crate::host::json_file;
use crate::host::process::ends_within;
use crate::sys;

/// The first argument with which `lamina` runs as [`run`]. It is not a command for users.
pub(crate) const CONTAINER: &str = "__container";

/// The name in the place of the stage where the container's control groups are mounted.
pub(super) const GROUPS: &str = "groups";

/// The option of a file system in memory that makes the runtimes copy there what the image has in its place.
pub(super) const COPIED: &str = "tmpcopyup";

/// What the stage says once it is in its namespaces, and what it waits for then.
pub(super) const ENTERED: &str = "entered";
pub(super) const GO: &str = "go";

/// How long the server of a root may take to end when the runtime has ended because of it.
const LAST: Duration = Duration::from_secs(1);

/// What a stage is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Whom it becomes, if root starts it.
    pub(super) account: Option<Account>,
    /// The directory of the machine's sockets.
    pub(super) place: PathBuf,
    /// The socket of the control channel.
    pub(super) control: PathBuf,
    /// The socket of the supervisor's own channel to this stage.
    pub(super) monitor: PathBuf,
    pub(super) root: ContainerRoot,
    /// The program of the container's init.
    pub(super) init: PathBuf,
    pub(super) upper: Upper,
    /// How the upper directory is laid over the root.
    pub(super) format: Format,
    /// A file of the lower tree that an overlay must be able to change, to find out whether it can.
    pub(super) check: Option<String>,
    /// Whether no process of the container may make a user namespace, because its init may make other namespaces.
    pub(super) no_user_namespaces: bool,
    /// Whether it stays in the host's network.
    pub(super) host_network: bool,
    /// The last group id of the container.
    pub(super) last_group: u32,
    /// System controls of its network namespace, as paths below `/proc/sys`, with their values.
    pub(super) system_controls: Vec<(String, String)>,
    /// Directories of the host that get, if they are empty, what the root has at a path.
    pub(super) fills: Vec<(PathBuf, String)>,
    /// Whether the container has control groups of its own.
    pub(super) groups: bool,
    /// Whether the container sees its control group, although it is not its own.
    pub(super) sees_groups: bool,
    /// Whether the host's control groups are hidden from the runtime.
    pub(super) hide_cgroups: bool,
    /// The runtime, and its arguments.
    pub(super) runtime: PathBuf,
    pub(super) arguments: Vec<PathBuf>,
    /// What each descriptor is that init inherits, from number 3 on.
    pub(super) descriptors: Vec<String>,
    /// The container's configuration.
    pub(super) config: Value,
}

/// Runs a container to its end. Returns the exit status of the runtime.
///
/// # Errors
/// A namespace, a mount or the runtime cannot be made.
pub(crate) fn run(arguments: &[OsString]) -> Result<u8, Failure> {
    let [file] = arguments else { return Err(Failure::new(CONTAINER, "needs a file")) };
    let mut spec: Spec = json_file::read(Path::new(file))?;
    let connect = |path: &Path| UnixStream::connect(path).about(path.display());
    let monitor = connect(&spec.monitor)?;
    let control = connect(&spec.control)?;
    let server = match &spec.root {
        ContainerRoot::View(socket) => Some(connect(socket)?),
        ContainerRoot::Directory(_) => None,
    };
    let account = spec.account.take();
    let groups = if spec.groups { Some(groups::Groups::make(account.as_ref())?) } else { None };
    if let Some(account) = account {
        root::give_up(&mut spec, &account)?;
    }
    enter(&monitor, spec.host_network)?;
    tie_to_parent()?;
    if !spec.host_network {
        network::prepare(spec.last_group);
        network::set(&spec.system_controls)?;
    }

    let stage = mounts::Stage::begin(&spec)?;
    if let Some(server) = server {
        send(&server, &mounts::Stage::mount_view()?).about("the server of the root")?;
    }
    let groups = match groups {
        Some(groups) => Some(groups.mount()?),
        None => {
            // Without it, a program finds no limits there, and nothing else is different.
            if spec.sees_groups
                && let Err(failure) = groups::show()
            {
                tell!("lamina: {failure}");
            }
            None
        }
    };
    let first = stage.mount_root()?;
    stage.write_bundle()?;
    let inherited = stage.descriptors(control, groups)?;
    let monitor = sys::above_inherited(monitor.into()).about("descriptors")?;
    let inherited = sys::inheritable(inherited).about("descriptors")?;
    if spec.no_user_namespaces {
        let limit = "/proc/sys/user/max_user_namespaces";
        std::fs::write(limit, "0").about(limit)?;
    }
    let runtime = start(&spec, first.is_none())?;
    // The control channel ends with the container's init, so nothing else may keep it open.
    drop(inherited);
    let first_id = first.as_ref().map_or(runtime.id(), Child::id);
    say(&File::from(monitor), &format!("started {first_id}"))?;
    Ok(wait(runtime, first))
}

/// Enters the namespaces, and waits until the supervisor has prepared them.
fn enter(monitor: &UnixStream, host_network: bool) -> Result<(), Failure> {
    let network = if host_network { UnshareFlags::empty() } else { UnshareFlags::NEWNET };
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS | network;
    sys::unshare(flags).about("user namespace").map_err(|failure| {
        failure.with_hint(
            "allow them: sysctl kernel.unprivileged_userns_clone=1, or user.max_user_namespaces; where AppArmor restricts \
             them: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    })?;
    say(monitor, ENTERED)?;
    let mut answer = String::new();
    BufReader::new(monitor).read_line(&mut answer).about("supervisor")?;
    if answer.trim_end() != GO {
        return Err(Failure::new(CONTAINER, "its supervisor has given up"));
    }
    become_root()
}

/// Asks again to be killed when the parent ends: a change of ids ends what `__die_with_parent` asked for.
fn tie_to_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).about("prctl(PR_SET_PDEATHSIG)")
}

fn say(mut monitor: impl Write, line: &str) -> Result<(), Failure> {
    monitor.write_all(format!("{line}\n").as_bytes()).about("supervisor")
}

/// Sends a descriptor.
fn send(socket: &UnixStream, descriptor: &OwnedFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Starts the runtime, as the first process of a new process namespace if none has been created yet. This process cannot start
/// threads afterwards.
fn start(spec: &Spec, is_first: bool) -> Result<Child, Failure> {
    let mut command = Command::new(&spec.runtime);
    if is_first {
        mounts::make_first(&mut command)?;
    }
    command.args(&spec.arguments).current_dir(&spec.place).stdin(Stdio::null());
    sys::die_with_parent(&mut command);
    command.spawn().about(spec.runtime.display())
}

/// Waits for the runtime, then ends the first process of the namespace, and with it all others.
fn wait(mut runtime: Child, first: Option<Child>) -> u8 {
    let status = runtime.wait().unwrap_or_default();
    if let Some(mut first) = first {
        // When the first process ends, the kernel kills the runtime. The first process itself may take a moment longer.
        let ended =
            || pidfd_open(Pid::from_child(&first), PidfdFlags::empty()).is_ok_and(|first| ends_within(&first, LAST));
        if !status.success() && ended() {
            tell!("lamina: fuse-overlayfs, the server of its root, ended");
        }
        let _ = first.kill();
        let _ = first.wait();
    }
    let number = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
    status.code().map_or_else(|| 128 + number(status.signal().unwrap_or_default()), number)
}

/// A command of this user that must end with its parent.
fn tied(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).process_group(0);
    sys::die_with_parent(&mut command);
    command
}
