//! A plan: everything that an engine is told about a guest, independent of the engine.

use std::fs::File;
use std::path::{Path, PathBuf};

use guest_protocol::GuestOptions;
use serde::{Deserialize, Serialize};

use crate::failure::{About, Failure};
use crate::host::confine::{self, Confinement, Namespace};

/// The name of the accelerator that is a device of the host.
pub(crate) const KVM: &str = "kvm";
/// The longest virtiofs tag in bytes (virtio specification, 5.11.4: the field of the device's configuration).
pub(crate) const MAX_TAG: usize = 36;
/// The longest serial of a virtio disk in bytes (`VIRTIO_BLK_ID_BYTES` of the virtio specification, 5.2.6).
pub(crate) const MAX_SERIAL: usize = 20;
/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) is 108 with its NUL.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// Everything about a guest that its engine is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The name of the machine, for the process list.
    pub(crate) name: String,
    /// What executes the guest: one of the names in [`Capabilities`](super::Capabilities).
    pub(crate) accelerator: &'static str,
    /// The machine type: one of the names in [`Capabilities`](super::Capabilities).
    pub(crate) machine: &'static str,
    /// Virtual processors, at least 1.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel image. Empty for a container, which boots nothing.
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Kernel parameters besides those that the machine type needs.
    pub(crate) kernel_parameters: Vec<String>,
    /// One device for each virtiofs share, the root first.
    pub(crate) shares: Vec<ShareDevice>,
    /// Read-only virtio disks that servers provide. Only for engines that have such disks.
    pub(crate) served_disks: Vec<ServedDisk>,
    /// Virtio disks, in the order in which the guest sees them.
    pub(crate) disks: Vec<Disk>,
    /// The network card, if the guest has one.
    pub(crate) network: Option<NetworkDevice>,
    /// The socket of the control channel.
    pub(crate) control: PathBuf,
    /// The socket of the engine's own channel.
    pub(crate) monitor: PathBuf,
    /// The file that the kernel's console is written to.
    pub(crate) console: PathBuf,
    /// The file that the engine's own output goes to.
    pub(crate) log: PathBuf,
    /// How the engine's program is confined.
    pub(crate) confine: confine::Decision,
    /// What a container is made of. An engine whose guests have a kernel of their own gets none of it, and a container
    /// gets no devices.
    pub(crate) container: Option<Container>,
}

/// What a container is made of, where a VM has a kernel and devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) root: ContainerRoot,
    /// Where writes to the root go.
    pub(crate) upper: Upper,
    /// Directories and files of the host, in the order in which they are mounted.
    pub(crate) binds: Vec<Bind>,
    /// Directories that take writes although the root is read-only.
    pub(crate) volumes: Vec<String>,
    /// Whether init is given secrets.
    pub(crate) has_secrets: bool,
    /// The user and the group of the container to which this user's own files belong.
    pub(crate) owner: (u32, u32),
    /// The program of its init.
    pub(crate) init: PathBuf,
    /// A directory that no other process uses, of the machine's sockets.
    pub(crate) place: PathBuf,
    /// A file of the root that the container must be able to change, to find out whether it can.
    pub(crate) check: Option<String>,
    /// Whether the gateway of its network leads to the host's loopback.
    pub(crate) host_loopback: bool,
    /// Whether it is in the host's network.
    pub(crate) host_network: bool,
    /// Its host name.
    pub(crate) hostname: String,
    /// What the user asks for besides.
    pub(crate) options: GuestOptions,
    /// The capabilities that it has besides those of every container: bit N is the capability with this number.
    pub(crate) added_capabilities: u64,
    /// What it may use.
    pub(crate) limits: Limits,
    /// Whether its command is an init, which is process 1 of a namespace in the container.
    pub(crate) init_system: bool,
    /// Whether its command may be systemd, which needs control groups of its own.
    pub(crate) may_be_systemd: bool,
}

/// What a container may use; nothing is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes of memory.
    pub(crate) memory: Option<u64>,
    /// Hundredths of a processor.
    pub(crate) hundredths: Option<u32>,
    /// Processes and threads.
    pub(crate) processes: Option<u64>,
}

/// The tree below a container's writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContainerRoot {
    /// A view. Its server waits at this socket for the device of the mount.
    View(PathBuf),
    /// A directory of the host.
    Directory(PathBuf),
}

/// Where a container's writes to its root go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Upper {
    /// To memory, of which they may fill this many bytes.
    Memory { limit: Option<u64> },
    /// To this directory, where they stay.
    Directory(PathBuf),
    /// Nowhere: the root is read-only.
    Nowhere,
}

/// A directory or a file of the host in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// Whether it gets what the root has at the target, with the owners there, if it is empty.
    pub(crate) fills: bool,
}

/// How a container's upper directory is laid over its root. What one writes, another cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// By the kernel's overlayfs.
    #[serde(rename = "overlay")]
    Kernel,
    /// By the program fuse-overlayfs.
    FuseOverlayfs,
    /// Not at all: the root is read-only, and directories for temporary files are in memory.
    #[serde(rename = "read-only")]
    None,
}

impl Format {
    /// All of them, the best first.
    pub(crate) const ALL: [Self; 3] = [Self::Kernel, Self::FuseOverlayfs, Self::None];

    /// Returns the format with this name.
    #[must_use]
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Returns its name for people to choose it by.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "overlay",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::None => "read-only",
        }
    }

    /// Returns what it is, as the subject of a sentence.
    #[must_use]
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Kernel => "an overlay in a user namespace",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::None => "a read-only root",
        }
    }

    /// Returns the reason to choose it.
    #[must_use]
    pub(crate) const fn advantage(self) -> &'static str {
        match self {
            Self::Kernel => "the kernel's overlay works in a user namespace, and is the fastest",
            Self::FuseOverlayfs => "the kernel's overlay does not work in a user namespace here",
            Self::None => "no overlay works here, so the root is read-only except for /run, /tmp and /var/tmp",
        }
    }
}

/// A virtiofs share as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShareDevice {
    /// The tag, 1 to [`MAX_TAG`] bytes.
    pub(crate) tag: String,
    /// The vhost-user socket of the program that serves it.
    pub(crate) socket: PathBuf,
}

/// A read-only virtio disk that a server provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedDisk {
    /// The name by which the guest finds it: 1 to [`MAX_SERIAL`] bytes. The server tells the guest.
    pub(crate) serial: String,
    /// The vhost-user socket of the server.
    pub(crate) socket: PathBuf,
    /// How many queues the server has for it, at least one.
    pub(crate) queues: u16,
}

/// One virtio disk: a file of the host, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The name by which the guest finds it: 1 to [`MAX_SERIAL`] bytes.
    pub(crate) serial: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether the guest may only read it.
    pub(crate) read_only: bool,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NetworkDevice {
    /// The user-mode network that the engine has built in.
    Slirp,
    /// The socket of a passt.
    Passt(PathBuf),
    /// The vhost-user socket of a passt, which reads the guest's memory.
    VhostUser(PathBuf),
}

impl Plan {
    /// Returns the number of shares, disks and network cards.
    #[must_use]
    pub(crate) fn devices(&self) -> usize {
        self.shares.len() + self.served_disks.len() + self.disks.len() + usize::from(self.network.is_some())
    }

    /// Checks that the plan has no more devices than the engine has room for.
    ///
    /// # Errors
    /// Names the way out.
    pub(crate) fn check_room(&self, engine: &str, most: usize) -> Result<(), Failure> {
        let wanted = self.devices();
        if wanted <= most {
            return Ok(());
        }
        let cause = format!("it has room for {most} shares, disks and network cards, not for {wanted}");
        Err(Failure::new(engine, cause).with_hint("share a directory that holds the others"))
    }

    /// Makes the console's file if it does not exist: it must exist to be shown to a confined program, and only the supervisor
    /// has made it already.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make_console(&self) -> Result<(), Failure> {
        if !self.console.exists() {
            drop(File::create(&self.console).about(self.console.display())?);
        }
        Ok(())
    }

    /// Returns what an engine's `program` may reach to carry out this plan, or `None` if it is not confined: besides the
    /// plan's own files, these `sockets`, which exist, and a `directory` in which it makes its own.
    #[must_use]
    pub(super) fn confinement(
        &self,
        program: &Path,
        sockets: &[&Path],
        directory: Option<PathBuf>,
    ) -> Option<Confinement> {
        let mut confinement = Confinement::of_program(program);
        confinement.readable.extend([self.kernel.clone(), self.initramfs.clone()]);
        confinement.writable.extend(sockets.iter().copied().map(Path::to_owned));
        confinement.writable.push(self.console.clone());
        confinement.directory = directory;
        confinement.writable.extend(self.shares.iter().map(|share| share.socket.clone()));
        confinement.writable.extend(self.served_disks.iter().map(|disk| disk.socket.clone()));
        for disk in &self.disks {
            let paths = if disk.read_only { &mut confinement.readable } else { &mut confinement.writable };
            paths.push(disk.path.clone());
        }
        if self.accelerator == KVM {
            confinement.devices.push("/dev/kvm".into());
        }
        match &self.network {
            Some(NetworkDevice::Passt(socket) | NetworkDevice::VhostUser(socket)) => {
                confinement.writable.push(socket.clone());
            }
            // It asks the host's name servers itself.
            Some(NetworkDevice::Slirp) => {
                confinement = confinement.without(Namespace::Network);
                confinement.readable.push("/etc/resolv.conf".into());
            }
            None => {}
        }
        confinement.processes += u64::from(self.cpus);
        confinement.decided(&self.confine)
    }

    /// Returns the kernel's command line: `first`, then the plan's own parameters.
    pub(crate) fn command_line(&self, first: &[&str]) -> String {
        let own = self.kernel_parameters.iter().map(String::as_str);
        first.iter().copied().chain(own).collect::<Vec<_>>().join(" ")
    }

    /// Checks for what every engine would refuse, often late and without a reason.
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
        let served = self.served_disks.iter().map(|disk| &disk.serial);
        for serial in served.chain(self.disks.iter().map(|disk| &disk.serial)) {
            if serial.is_empty() || serial.len() > MAX_SERIAL || serials.contains(&serial.as_str()) {
                let cause = format!("a disk's serial has 1 to {MAX_SERIAL} bytes and occurs once");
                return Err(Failure::new(format_args!("serial {serial:?}"), cause));
            }
            serials.push(serial);
        }
        let disks = self.served_disks.iter().map(|disk| &disk.socket);
        let sockets = self.shares.iter().map(|share| &share.socket).chain(disks);
        let network = self.network.iter().filter_map(|network| match network {
            NetworkDevice::Passt(socket) | NetworkDevice::VhostUser(socket) => Some(socket),
            NetworkDevice::Slirp => None,
        });
        sockets.chain(network).chain([&self.control, &self.monitor]).try_for_each(|socket| check_socket(socket))
    }
}

/// Refuses a path that does not fit into a socket address.
///
/// # Errors
/// Names the path and its length, and how to get a shorter one.
pub(crate) fn check_socket(path: &Path) -> Result<(), Failure> {
    let length = path.as_os_str().len();
    if length <= MAX_SOCKET_PATH {
        return Ok(());
    }
    let cause = format!("a socket's path has at most {MAX_SOCKET_PATH} bytes, this one has {length}");
    Err(Failure::new(path.display(), cause).with_hint("set XDG_RUNTIME_DIR to a shorter directory"))
}

/// Returns a path for an engine that accepts only UTF-8.
pub(crate) fn utf8<'path>(engine: &str, path: &'path Path) -> Result<&'path str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(path.display(), format_args!("{engine} takes UTF-8 paths only")))
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
        accelerator: "tcg",
        machine: "q35",
        cpus: 2,
        memory_mib: 512,
        kernel: "/boot/vmlinuz".into(),
        initramfs: "/cache/initramfs.cpio".into(),
        kernel_parameters: vec!["quiet".into()],
        shares: (0..=shares).map(share).collect(),
        served_disks: Vec::new(),
        disks: Vec::new(),
        network: None,
        control: "/run/m/control.sock".into(),
        monitor: "/run/m/monitor.sock".into(),
        console: "/state/web/console.log".into(),
        log: "/state/web/hypervisor.log".into(),
        confine: confine::Decision::default(),
        container: None,
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
        // Two long names with the same beginning are two errors, never one tag.
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
