//! Hypervisors: for each a pure function from a [`Plan`] to its arguments, and to the document that it takes instead.

pub(crate) mod cloud_hypervisor;
pub(crate) mod firecracker;
pub(crate) mod policy;
pub(crate) mod qemu;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;

/// What carries out a plan. All methods are pure.
pub(crate) trait Hypervisor: fmt::Debug {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// How many shares, disks and network cards it has room for, the root among them.
    fn most_devices(&self) -> usize;

    /// Checks what this hypervisor alone cannot do; for what none can, and for the room, there is [`check`].
    ///
    /// # Errors
    /// Names what it cannot do, and the way out.
    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        let _ = plan;
        Ok(())
    }

    /// Its command line.
    ///
    /// # Errors
    /// Names a value that it cannot carry.
    fn command(&self, plan: &Plan) -> Result<CommandLine, Failure>;

    /// The document that says the same, where it takes one.
    ///
    /// # Errors
    /// As for [`Hypervisor::command`].
    fn document(&self, plan: &Plan) -> Result<Option<Document>, Failure> {
        let _ = plan;
        Ok(None)
    }
}

/// A document that a hypervisor takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// What it is, in one line.
    pub(crate) about: String,
    /// The file that it is for.
    pub(crate) path: PathBuf,
    /// JSON.
    pub(crate) body: Value,
}

/// Checks before anything is started whether `hypervisor` can carry out `plan`.
///
/// # Errors
/// Names what does not fit, and the way out.
pub(crate) fn check(hypervisor: &dyn Hypervisor, plan: &Plan) -> Result<(), Failure> {
    plan.check()?;
    let (wanted, most) = (plan.devices(), hypervisor.most_devices());
    if wanted > most {
        let cause = format!("it has room for {most} shares, disks and network cards, not for {wanted}");
        return Err(Failure::new(hypervisor.name(), cause).with_hint("share a directory that holds the others"));
    }
    hypervisor.check(plan)
}

/// A path for a hypervisor that takes UTF-8 only.
pub(crate) fn utf8<'path>(hypervisor: &str, path: &'path Path) -> Result<&'path str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(path.display(), format_args!("{hypervisor} takes UTF-8 paths only")))
}

/// The longest virtiofs tag in bytes (virtio specification, 5.11.4: the field of the device's configuration).
pub(crate) const MAX_TAG: usize = 36;
/// The longest serial of a virtio disk in bytes (`VIRTIO_BLK_ID_BYTES` of the virtio specification, 5.2.6).
pub(crate) const MAX_SERIAL: usize = 20;
/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) is 108 with its NUL.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// Everything about a guest that its hypervisor is told.
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
    /// The socket that the launcher listens on for the control channel.
    pub(crate) control: PathBuf,
    /// The socket that the launcher listens on for the hypervisor's own events.
    pub(crate) monitor: PathBuf,
    /// The file that the kernel's console is written to.
    pub(crate) console: PathBuf,
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

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// The program: a path, or a name to be found in `PATH`.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
}

impl CommandLine {
    /// Starts a command line with no arguments.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new() }
    }

    /// Adds one argument.
    #[must_use]
    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub(crate) fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The words as a POSIX shell would take them, one argument (with its value) to a line.
    #[must_use]
    pub(crate) fn to_shell(&self) -> String {
        let mut text = shell_word(self.program.as_os_str().as_bytes());
        for argument in &self.arguments {
            let word = shell_word(argument.as_bytes());
            text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
            text.push_str(&word);
        }
        text
    }
}

/// Quotes one word for a POSIX shell where it needs quoting.
fn shell_word(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_so_that_a_shell_reads_them_back() {
        let command = CommandLine::new("/usr/bin/x").arg("-a").arg("it's a b").arg("").arg("k=v,w:1");
        assert_eq!(command.to_shell(), "/usr/bin/x \\\n  -a 'it'\\''s a b' '' k=v,w:1");
        let output = std::process::Command::new("sh")
            .args(["-c", &command.to_shell().replace("/usr/bin/x", "printf '%s|'")])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"-a|it's a b||k=v,w:1|");
    }

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
