//! Engines: what executes a machine's guest. Each has a folder of its own, which alone knows the engine's options, its
//! language and its habits; everything else knows it by the trait [`Engine`].

pub(crate) mod cloud_hypervisor;
pub(crate) mod firecracker;
pub(crate) mod policy;
pub(crate) mod qemu;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;

use crate::failure::Failure;
use crate::host::command_line::CommandLine;
use crate::host::process::Process;

/// A program that executes a guest.
pub(crate) trait Engine: fmt::Debug {
    /// The name that people call it by.
    fn name(&self) -> &'static str;

    /// How many shares, disks and network cards it has room for, the root among them.
    fn most_devices(&self) -> usize;

    /// Checks what this engine alone cannot do. What no engine can do, and the room, is checked by [`check`].
    ///
    /// # Errors
    /// Names what it cannot do, and the way out.
    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        let _ = plan;
        Ok(())
    }

    /// The command line by which it is started.
    ///
    /// # Errors
    /// Names a value that its command line cannot carry.
    fn command(&self, plan: &Plan) -> Result<CommandLine, Failure>;

    /// The document that says the same, if it takes one.
    ///
    /// # Errors
    /// As for [`Engine::command`].
    fn document(&self, plan: &Plan) -> Result<Option<Document>, Failure> {
        let _ = plan;
        Ok(None)
    }

    /// Starts it, and tells `events` from then on what happens, until [`Event::Exited`].
    ///
    /// The servers of the plan's shares and of its network are there already. Call it in a thread that lives as long as
    /// the machine: the kernel ends the engine's process with that thread.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure>;
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

/// Why an engine that is only printed yet cannot be used.
fn not_started_yet(engine: &str) -> Failure {
    Failure::new(engine, "lamina prints what it would be given (--dry-run), and cannot start it yet")
        .with_hint("use --engine qemu")
}

/// Checks before anything is started whether `engine` can carry out `plan`.
///
/// # Errors
/// Names what does not fit, and the way out.
pub(crate) fn check(engine: &dyn Engine, plan: &Plan) -> Result<(), Failure> {
    plan.check()?;
    let (wanted, most) = (plan.devices(), engine.most_devices());
    if wanted > most {
        let cause = format!("it has room for {most} shares, disks and network cards, not for {wanted}");
        return Err(Failure::new(engine.name(), cause).with_hint("share a directory that holds the others"));
    }
    engine.check(plan)
}

/// A path for an engine that takes UTF-8 only.
pub(crate) fn utf8<'path>(engine: &str, path: &'path Path) -> Result<&'path str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(path.display(), format_args!("{engine} takes UTF-8 paths only")))
}

/// The longest virtiofs tag in bytes (virtio specification, 5.11.4: the field of the device's configuration).
pub(crate) const MAX_TAG: usize = 36;
/// The longest serial of a virtio disk in bytes (`VIRTIO_BLK_ID_BYTES` of the virtio specification, 5.2.6).
pub(crate) const MAX_SERIAL: usize = 20;
/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) is 108 with its NUL.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// Everything about a guest that its engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The name of the machine, for the process list.
    pub(crate) name: String,
    /// Virtual processors, at least 1.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel image.
    pub(crate) kernel: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
    /// Kernel parameters besides those that the machine type needs.
    pub(crate) kernel_parameters: Vec<String>,
    /// One device for each virtiofs share, the root first.
    pub(crate) shares: Vec<ShareDevice>,
    /// Virtio disks, in the order in which the guest sees them.
    pub(crate) disks: Vec<Disk>,
    /// The network card, if the guest is to have one.
    pub(crate) network: Option<NetworkDevice>,
    /// The socket of the control channel.
    pub(crate) control: PathBuf,
    /// The socket of the engine's own channel.
    pub(crate) monitor: PathBuf,
    /// The file that the kernel's console is written to.
    pub(crate) console: PathBuf,
    /// The file that the engine's own output goes to.
    pub(crate) log: PathBuf,
}

/// One virtiofs share as the hypervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShareDevice {
    /// The tag, 1 to [`MAX_TAG`] bytes.
    pub(crate) tag: String,
    /// The vhost-user socket of the program that serves it.
    pub(crate) socket: PathBuf,
}

/// One virtio disk: a file of the host, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// What the guest knows it by: 1 to [`MAX_SERIAL`] bytes.
    pub(crate) serial: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether the guest may only read it.
    pub(crate) read_only: bool,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NetworkDevice {
    /// QEMU's own network: the value of its `-netdev`.
    Slirp(String),
    /// The socket of a passt.
    Passt(PathBuf),
}

impl Plan {
    /// Shares, disks and network cards.
    #[must_use]
    pub(crate) fn devices(&self) -> usize {
        self.shares.len() + self.disks.len() + usize::from(self.network.is_some())
    }

    /// The kernel's command line: `first`, then the plan's own parameters.
    pub(crate) fn command_line(&self, first: &[&str]) -> String {
        let own = self.kernel_parameters.iter().map(String::as_str);
        first.iter().copied().chain(own).collect::<Vec<_>>().join(" ")
    }

    /// Checks what every hypervisor would refuse, often long after the start and without saying why.
    ///
    /// # Errors
    /// Names the tag or socket at fault.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mut tags: Vec<&str> = Vec::new();
        for share in &self.shares {
            if share.tag.is_empty() || share.tag.len() > MAX_TAG || tags.contains(&share.tag.as_str()) {
                let cause = format!("a virtiofs tag has 1 to {MAX_TAG} bytes and occurs once");
                return Err(Failure::new(format_args!("tag {:?}", share.tag), cause));
            }
            tags.push(&share.tag);
        }
        let mut serials: Vec<&str> = Vec::new();
        for disk in &self.disks {
            if disk.serial.is_empty() || disk.serial.len() > MAX_SERIAL || serials.contains(&disk.serial.as_str()) {
                let cause = format!("a disk's serial has 1 to {MAX_SERIAL} bytes and occurs once");
                return Err(Failure::new(format_args!("serial {:?}", disk.serial), cause));
            }
            serials.push(&disk.serial);
        }
        let sockets = self.shares.iter().map(|share| &share.socket);
        let network = self.network.iter().filter_map(|network| match network {
            NetworkDevice::Passt(socket) => Some(socket),
            NetworkDevice::Slirp(_) => None,
        });
        sockets.chain(network).chain([&self.control, &self.monitor]).try_for_each(|socket| check_socket(socket))
    }
}

/// Refuses a path that does not fit into a socket address.
///
/// # Errors
/// Names the path, its length and the way to a shorter one.
pub(crate) fn check_socket(path: &Path) -> Result<(), Failure> {
    let length = path.as_os_str().len();
    if length <= MAX_SOCKET_PATH {
        return Ok(());
    }
    let cause = format!("a socket's path has at most {MAX_SOCKET_PATH} bytes, this one has {length}");
    Err(Failure::new(path.display(), cause).with_hint("set XDG_RUNTIME_DIR to a shorter directory"))
}

/// A plan for golden tests: a root and as many further shares as asked for.
#[cfg(test)]
pub(crate) fn example(shares: usize) -> Plan {
    let share = |position: usize| ShareDevice {
        tag: if position == 0 { "root".into() } else { format!("share{position}") },
        socket: format!("/run/m/{position}.sock").into(),
    };
    Plan {
        name: "web".into(),
        cpus: 2,
        memory_mib: 512,
        kernel: "/boot/vmlinuz".into(),
        initramfs: "/cache/initramfs.cpio".into(),
        kernel_parameters: vec!["quiet".into()],
        shares: (0..=shares).map(share).collect(),
        disks: Vec::new(),
        network: None,
        control: "/run/m/control.sock".into(),
        monitor: "/run/m/monitor.sock".into(),
        console: "/state/web/console.log".into(),
        log: "/state/web/hypervisor.log".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_socket_paths_that_do_not_fit_are_named() {
        let mut plan = example(1);
        plan.check().unwrap();
        plan.shares[1].tag = "root".into();
        assert!(plan.check().unwrap_err().to_string().contains("tag \"root\""));
        plan.shares[1].tag = "x".repeat(37);
        assert!(plan.check().unwrap_err().to_string().contains("36 bytes"));
        plan.shares[1].tag = "x".repeat(36);
        plan.check().unwrap();
        // Two long names that begin alike are two errors and never one tag.
        plan.shares[0].tag = format!("{}1", "x".repeat(36));
        plan.shares[1].tag = format!("{}2", "x".repeat(36));
        assert!(plan.check().unwrap_err().to_string().contains("36 bytes"));
        plan.shares[0].tag = "root".into();
        plan.shares[1].tag = "ü".repeat(18);
        plan.check().unwrap();
        plan.control = format!("/{}", "y".repeat(106)).into();
        plan.check().unwrap();
        plan.control = format!("/{}", "y".repeat(107)).into();
        assert!(plan.check().unwrap_err().to_string().contains("this one has 108; set XDG_RUNTIME_DIR"));
    }
}
