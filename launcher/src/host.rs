//! What this host can do, found out by doing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use composefs_fuse::Server;
use composefs_fuse::linux::{MountOptions, MountPoint, Session, Unmount};
use layer_store::Store;

use crate::accelerator::{self, Accelerator, Probe};
use crate::child;
use crate::failure::{About, Failure};
use crate::hypervisor::{cloud_hypervisor, qemu};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::machine::Signals;
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
    /// virtiofsd, or why there is none. Looked for only where the request needs it: it takes a process.
    pub virtiofsd: Result<Virtiofsd, Failure>,
}

impl Tools {
    /// Finds them, and makes the initramfs in `cache` if it is not there yet.
    ///
    /// # Errors
    /// Names what every start needs and is missing.
    pub fn find(kernel: Option<&Path>, cache: &Path, request: &Request) -> Result<Self, Failure> {
        let qemu = accelerator::find_qemu()?;
        let kernel = Kernel::find(kernel)?;
        let initramfs = initramfs::for_kernel(&kernel, cache)?;
        let needed =
            request.shares > 0 || request.directory_root || request.backend == Choice::Forced(Backend::Virtiofsd);
        let virtiofsd = if needed { Virtiofsd::find() } else { Err(Failure::new("virtiofsd", "not looked for")) };
        Ok(Self { qemu, kernel, initramfs, virtiofsd })
    }

    /// Finds out what `request` depends on, and no more: what is forced to something else is not tried.
    ///
    /// # Errors
    /// A probe could not be made.
    pub fn capabilities(&self, request: &Request, cache: &Path, signals: &Signals) -> Result<Capabilities, Failure> {
        let kvm = match request.accelerator {
            Choice::Forced(Accelerator::Tcg) => Err("not tried".to_owned()),
            _ => self.probe(request, cache, signals).kvm()?,
        };
        let fuse = match request.backend {
            Choice::Forced(Backend::Virtiofsd) => fuse().map_err(|failure| failure.to_string()),
            _ => Err("not tried".to_owned()),
        };
        let virtiofsd = self.virtiofsd.as_ref().map(|_| ()).map_err(ToString::to_string);
        Ok(Capabilities { kvm, fuse, virtiofsd, tsc_khz: accelerator::tsc_khz() })
    }

    /// A probe of the accelerators with the machine type that `request` gets.
    #[must_use]
    pub fn probe<'a>(&'a self, request: &Request, cache: &'a Path, signals: &'a Signals) -> Probe<'a> {
        let machine = match request.machine {
            Choice::Forced(machine) => machine,
            Choice::Auto => qemu::Machine::Microvm,
        };
        Probe { qemu: &self.qemu, kernel: &self.kernel, initramfs: &self.initramfs, machine, cache, signals }
    }
}

/// Whether this user can mount FUSE file systems: mounts an empty view and looks into it.
///
/// # Errors
/// Names what is missing.
pub fn fuse() -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("lamina-fuse-").tempdir().about("temporary directory")?;
    let store = Store::open(&scratch.path().join("store")).about("temporary store")?;
    let base = store.prepare_layers(&[], &[], &mut || {}).about("temporary store")?;
    let server = Arc::new(Server::new(Arc::new(store.open_view(&base).about("temporary store")?)));
    let path = scratch.path().join("mount");
    fs::create_dir(&path).about(path.display())?;
    let point = MountPoint::new(&path).about("fuse")?;
    let device = point.mount(&MountOptions::default()).about("fuse")?;
    let (events, _) = channel();
    let served = Session::start(&server, device, 1, &events).about("fuse");
    // Only what is served can be read without waiting for ever.
    let seen = served.and_then(|session| Ok((session, fs::read_dir(&path).map(Iterator::count).about("fuse")?)));
    point.unmount(Unmount::Lazy).about("fuse")?;
    let (session, entries) = seen?;
    session.join();
    if entries == 0 { Ok(()) } else { Err(Failure::new("fuse", "an empty mount is not empty")) }
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
