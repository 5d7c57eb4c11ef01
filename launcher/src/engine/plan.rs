//! A plan: everything that an engine is told about a guest, independent of the engine.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The kernel image.
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Kernel parameters besides those that the machine type needs.
    pub(crate) kernel_parameters: Vec<String>,
    /// One device for each virtiofs share, the root first.
    pub(crate) shares: Vec<ShareDevice>,
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
}

/// A virtiofs share as the engine sees it.
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
}

impl Plan {
    /// Returns the number of shares, disks and network cards.
    #[must_use]
    pub(crate) fn devices(&self) -> usize {
        self.shares.len() + self.disks.len() + usize::from(self.network.is_some())
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

    /// Returns what an engine's `program` may reach to carry out this plan, or `None` if it is not confined.
    #[must_use]
    pub(crate) fn confinement(&self, program: &Path) -> Option<Confinement> {
        let mut confinement = Confinement::of_program(program);
        confinement.readable.extend([self.kernel.clone(), self.initramfs.clone()]);
        confinement.writable.extend([self.control.clone(), self.monitor.clone(), self.console.clone()]);
        confinement.writable.extend(self.shares.iter().map(|share| share.socket.clone()));
        for disk in &self.disks {
            let paths = if disk.read_only { &mut confinement.readable } else { &mut confinement.writable };
            paths.push(disk.path.clone());
        }
        if self.accelerator == KVM {
            confinement.devices.push("/dev/kvm".into());
        }
        match &self.network {
            Some(NetworkDevice::Passt(socket)) => confinement.writable.push(socket.clone()),
            Some(NetworkDevice::Slirp) => confinement = confinement.without(Namespace::Network),
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
        disks: Vec::new(),
        network: None,
        control: "/run/m/control.sock".into(),
        monitor: "/run/m/monitor.sock".into(),
        console: "/state/web/console.log".into(),
        log: "/state/web/hypervisor.log".into(),
        confine: confine::Decision::default(),
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
