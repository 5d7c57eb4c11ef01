//! What this host can do, found out by doing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::accelerator::{self, Accelerator, Probe};
use crate::child;
use crate::failure::Failure;
use crate::hypervisor::{cloud_hypervisor, qemu};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::policy::{Backend, Capabilities, Choice, Request};
use crate::virtiofsd::Virtiofsd;

/// The programs and files that a start uses.
#[derive(Clone, Debug)]
pub struct Tools {
    /// QEMU.
    pub qemu: PathBuf,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// The initramfs made for it.
    pub initramfs: PathBuf,
    /// virtiofsd, or why there is none.
    pub virtiofsd: Result<Virtiofsd, Failure>,
}

impl Tools {
    /// Finds them, and makes the initramfs in `cache` if it is not there yet.
    ///
    /// # Errors
    /// Names what every start needs and is missing.
    pub fn find(kernel: Option<&Path>, cache: &Path) -> Result<Self, Failure> {
        let qemu = accelerator::find_qemu()?;
        let kernel = Kernel::find(kernel)?;
        let initramfs = initramfs::for_kernel(&kernel, cache)?;
        Ok(Self { qemu, kernel, initramfs, virtiofsd: Virtiofsd::find() })
    }

    /// Finds out what `request` depends on, and no more: what is forced to something else is not tried.
    ///
    /// # Errors
    /// A probe could not be made.
    pub fn capabilities(&self, request: &Request, cache: &Path) -> Result<Capabilities, Failure> {
        let kvm = match request.accelerator {
            Choice::Forced(Accelerator::Tcg) => Err("not tried".to_owned()),
            _ => self.probe(request, cache).kvm()?,
        };
        let fuse = match request.backend {
            Choice::Forced(Backend::Virtiofsd) => fuse().map_err(|failure| failure.to_string()),
            _ => Err("not tried".to_owned()),
        };
        let virtiofsd = self.virtiofsd.as_ref().map(|_| ()).map_err(ToString::to_string);
        Ok(Capabilities { kvm, fuse, virtiofsd, tsc_khz: accelerator::tsc_khz() })
    }

    fn probe<'a>(&'a self, request: &Request, cache: &'a Path) -> Probe<'a> {
        let machine = match request.machine {
            Choice::Forced(machine) => machine,
            Choice::Auto => qemu::Machine::Microvm,
        };
        Probe { qemu: &self.qemu, kernel: &self.kernel, initramfs: &self.initramfs, machine, cache }
    }
}

/// Whether this user can mount FUSE file systems: the device opens, and there is someone to mount for us.
///
/// # Errors
/// Names what is missing.
pub fn fuse() -> Result<(), Failure> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "load it: sudo modprobe fuse",
            _ => "open it to users: sudo chmod 666 /dev/fuse",
        };
        Failure::new("/dev/fuse", error).remedy(remedy)
    })?;
    if rustix::process::geteuid().is_root() || child::find("fusermount3", &[]).is_some() {
        return Ok(());
    }
    Err(Failure::new("fusermount3", "not found in PATH").remedy("install it (Debian: apt-get install fuse3)"))
}

/// The first line that a program prints when asked for its version.
///
/// # Errors
/// It does not run.
pub fn version(program: &Path) -> Result<String, Failure> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| Failure::new(program.display(), error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .next()
        .map(|line| line.trim().to_owned())
        .ok_or_else(|| Failure::new(program.display(), "it does not tell its version"))
}

/// Cloud Hypervisor with its major version, where there is one.
///
/// # Errors
/// There is none, or it does not tell its version.
pub fn cloud_hypervisor() -> Result<(PathBuf, u32), Failure> {
    let program = child::find("cloud-hypervisor", &[]).ok_or_else(|| {
        Failure::new("cloud-hypervisor", "not found in PATH").remedy("none is needed as long as QEMU is there")
    })?;
    let text = version(&program)?;
    match cloud_hypervisor::parse_version(&text) {
        Some(version) => Ok((program, version)),
        None => Err(Failure::new(program.display(), format_args!("unknown version {text:?}"))),
    }
}
