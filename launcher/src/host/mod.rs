//! What this host can do, found out by doing it.

pub(crate) mod child;
pub(crate) mod command_line;
pub(crate) mod file_share;
pub(crate) mod initramfs;
pub(crate) mod json_file;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod passt;
pub(crate) mod probe_cache;
pub(crate) mod process;
pub(crate) mod resolver;
pub(crate) mod share;
pub(crate) mod virtiofsd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use composefs_fuse::Server;
use composefs_fuse::linux::{MountOptions, MountPoint, Unmount, Workers};
use guest_protocol::Part;
use layer_store::{Silent, Store};

use crate::engine::policy::{Backend, Capabilities, Choice, Request};
use crate::engine::qemu::probe::{self, Accelerator, Probe};
use crate::engine::{cloud_hypervisor, qemu};
use crate::failure::{About, Failure};
use crate::host::kernel::{Kernel, Modules};
use crate::host::network::NetworkBackend;
use crate::host::passt::Passt;
use crate::host::probe_cache::ProbeCache;
use crate::host::virtiofsd::Virtiofsd;
use crate::machine::Signals;

/// The programs and files that a start uses.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// QEMU.
    pub(crate) qemu: PathBuf,
    /// The guest's kernel.
    pub(crate) kernel: Kernel,
    /// The initramfs made for it.
    pub(crate) initramfs: PathBuf,
    /// The modules in it.
    pub(crate) modules: Modules,
    /// virtiofsd, or why there is none. Looked for only where the request needs it: it takes a process.
    pub(crate) virtiofsd: Result<Virtiofsd, Failure>,
    /// passt, or why it cannot be used. Tried only if the request may need it.
    pub(crate) passt: Result<Passt, Failure>,
}

impl Tools {
    /// Finds them, and makes the initramfs in `cache` if it is not there yet.
    ///
    /// # Errors
    /// Names what every start needs and is missing.
    pub(crate) fn find(kernel: Option<&Path>, cache: &Path, request: &Request) -> Result<Self, Failure> {
        let qemu = probe::find_qemu()?;
        let kernel = Kernel::find(kernel)?;
        let modules = kernel.needed_modules()?;
        let initramfs = initramfs::for_kernel(&kernel, &modules, cache)?;
        let mut probes = ProbeCache::of(cache);
        let needed = request.explain
            || request.directory_root
            || matches!(request.backend, Choice::Forced(Backend::Virtiofsd | Backend::Materialize));
        let virtiofsd =
            if needed { Virtiofsd::cached(&mut probes) } else { Err(Failure::new("virtiofsd", "not looked for")) };
        let passt = match request.network {
            Choice::Forced(NetworkBackend::None | NetworkBackend::Slirp) => Err(Failure::new("passt", "not tried")),
            _ => Passt::cached(&mut probes),
        };
        Ok(Self { qemu, kernel, initramfs, modules, virtiofsd, passt })
    }

    /// Finds out what `request` depends on, and no more: what is forced to something else is not tried.
    ///
    /// # Errors
    /// A probe could not be made.
    pub(crate) fn capabilities(
        &self,
        request: &Request,
        cache: &Path,
        signals: &Signals,
    ) -> Result<Capabilities, Failure> {
        let kvm = match request.accelerator {
            Choice::Forced(Accelerator::Tcg) => Err("not tried".to_owned()),
            // What is forced is tried by the machine itself.
            Choice::Forced(Accelerator::Kvm) => probe::opens(),
            Choice::Auto => self.probe(request, cache, &|| signals.check(), false).kvm()?,
        };
        let mut probes = ProbeCache::of(cache);
        let text = |failure: Failure| failure.to_string();
        let fuse = match request.backend {
            backend if request.explain || backend == Choice::Forced(Backend::Virtiofsd) => {
                probes.recall("fuse", &[Path::new("/dev/fuse")], || fuse(false)).map_err(text)
            }
            _ => Err("not tried".to_owned()),
        };
        let passt = self.passt.as_ref().map(Passt::can_publish).map_err(ToString::to_string);
        let network_in_guest = self.modules.supports(Part::Network);
        let virtiofsd = self.virtiofsd.as_ref().map(|_| ()).map_err(ToString::to_string);
        let image_in_guest = [Part::Disk, Part::Erofs].into_iter().try_for_each(|part| self.modules.supports(part));
        let disk_in_guest = [Part::Disk, Part::Ext4].into_iter().try_for_each(|part| self.modules.supports(part));
        let tsc_khz = probe::tsc_khz();
        Ok(Capabilities { kvm, fuse, virtiofsd, image_in_guest, disk_in_guest, passt, network_in_guest, tsc_khz })
    }

    /// A probe of the accelerators with the machine type that `request` gets.
    #[must_use]
    pub(crate) fn probe<'a>(
        &'a self,
        request: &Request,
        cache: &'a Path,
        check: &'a dyn Fn() -> Result<(), Failure>,
        again: bool,
    ) -> Probe<'a> {
        let machine = match request.machine {
            Choice::Forced(machine) => machine,
            Choice::Auto => qemu::Machine::Microvm,
        };
        Probe { qemu: &self.qemu, kernel: &self.kernel, initramfs: &self.initramfs, machine, cache, check, again }
    }
}

/// Whether this host could ever hold a guest of so much memory: with what it has and may put on its swap. A guest that
/// is larger is not refused by the kernel, but ends by it, late and with whatever else runs here.
///
/// # Errors
/// It could not.
pub(crate) fn has_memory(mib: u64) -> Result<(), Failure> {
    let text = fs::read_to_string("/proc/meminfo").about("/proc/meminfo")?;
    // proc_meminfo(5): "MemTotal:       24612345 kB"
    let kib = |field| text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    let all: u64 = kib("MemTotal:").unwrap_or(u64::MAX).saturating_add(kib("SwapTotal:").unwrap_or(0)) / 1024;
    if mib <= all {
        return Ok(());
    }
    Err(Failure::new(format_args!("--memory {mib}M"), format_args!("this host has {all}M, its swap included"))
        .with_hint("give the VM less"))
}

/// Whether this user can make a user namespace and mounts in it, as a share of a single file needs.
///
/// # Errors
/// Names what is missing.
pub(crate) fn namespaces() -> Result<(), Failure> {
    let output = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).output();
    let output = output.about("unshare")?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new("user namespaces", words)
        .with_hint("allow them: sysctl kernel.unprivileged_userns_clone=1, or user.max_user_namespaces"))
}

/// Whether guests' memory can be shared with the servers of shares: makes some, as a hypervisor does.
///
/// # Errors
/// Names what is missing.
pub(crate) fn shared_memory() -> Result<(), Failure> {
    let memory = rustix::fs::memfd_create("lamina", rustix::fs::MemfdFlags::CLOEXEC).about("memfd_create")?;
    rustix::fs::ftruncate(&memory, 512 << 20)
        .about("memory of 512 MiB")
        .map_err(|failure| failure.with_hint("raise the limit of file sizes: ulimit -f unlimited"))
}

/// Whether this user can mount FUSE file systems: mounts an empty view and looks into it. With `others` for other users
/// too.
///
/// # Errors
/// Names what is missing.
pub(crate) fn fuse(others: bool) -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("lamina-fuse-").tempdir().about("temporary directory")?;
    let store = Store::open(&scratch.path().join("store")).about("temporary store")?;
    let base = store.bases().prepare_layers(&[], &[], &Silent).about("temporary store")?;
    let server = Arc::new(Server::new(Arc::new(store.bases().open(&base).about("temporary store")?)));
    let path = scratch.path().join("mount");
    fs::create_dir(&path).about(path.display())?;
    let point = MountPoint::new(&path).about("fuse")?;
    let options = MountOptions { allow_other: others, ..MountOptions::default() };
    let device = point.mount(&options).about("fuse")?;
    let (events, _) = channel();
    let served = Workers::start(&server, device, 1, &events).about("fuse");
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
pub(crate) fn version(program: &Path) -> Result<String, Failure> {
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
pub(crate) fn cloud_hypervisor() -> Result<(PathBuf, u32), Failure> {
    let program = child::find("cloud-hypervisor", &[]).ok_or_else(|| {
        Failure::new("cloud-hypervisor", "not found in PATH").with_hint("none is needed as long as QEMU is there")
    })?;
    let text = version(&program)?;
    match cloud_hypervisor::parse_version(&text) {
        Some(version) => Ok((program, version)),
        None => Err(Failure::new(program.display(), format_args!("unknown version {text:?}"))),
    }
}
