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
use layer_store::{Silent, Store};

use crate::failure::{About, Failure};
use crate::host::kernel::{Kernel, Modules};
use crate::host::passt::Passt;
use crate::host::probe_cache::ProbeCache;
use crate::host::virtiofsd::Virtiofsd;

/// What guests boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    pub(crate) kernel: Kernel,
    /// The initramfs made for it.
    pub(crate) initramfs: PathBuf,
    pub(crate) modules: Modules,
}

impl Boot {
    /// Finds the kernel, and makes the initramfs in `cache` if it is not there yet.
    ///
    /// # Errors
    /// Names what is missing.
    pub(crate) fn find(kernel: Option<&Path>, cache: &Path) -> Result<Self, Failure> {
        let kernel = Kernel::find(kernel)?;
        let modules = kernel.needed_modules()?;
        let initramfs = initramfs::for_kernel(&kernel, &modules, cache)?;
        Ok(Self { kernel, initramfs, modules })
    }
}

/// The programs and files that a start uses, besides those of its engine.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// What the guest boots.
    pub(crate) boot: Boot,
    /// virtiofsd, or why it cannot be used.
    pub(crate) virtiofsd: Result<Virtiofsd, Failure>,
    /// passt, or why it cannot be used.
    pub(crate) passt: Result<Passt, Failure>,
}

/// The programs that a start may need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) virtiofsd: bool,
    pub(crate) passt: bool,
}

impl Tools {
    /// Finds the programs that are wanted.
    ///
    /// # Errors
    /// As for [`Boot::find`].
    pub(crate) fn find(kernel: Option<&Path>, cache: &Path, wanted: Wanted) -> Result<Self, Failure> {
        let boot = Boot::find(kernel, cache)?;
        let mut probes = ProbeCache::of(cache);
        let not_tried = |program| Failure::new(program, "not tried");
        let virtiofsd = if wanted.virtiofsd { Virtiofsd::cached(&mut probes) } else { Err(not_tried("virtiofsd")) };
        let passt = if wanted.passt { Passt::cached(&mut probes) } else { Err(not_tried("passt")) };
        Ok(Self { boot, virtiofsd, passt })
    }
}

/// Checks whether this host has enough memory and swap for a guest of this size. The kernel does not refuse a larger
/// guest, but kills it later, perhaps with other processes of this host.
///
/// # Errors
/// It has not.
pub(crate) fn has_memory(mib: u64) -> Result<(), Failure> {
    let text = fs::read_to_string("/proc/meminfo").about("/proc/meminfo")?;
    // proc_meminfo(5): "MemTotal:       24612345 kB"
    let kib = |field| text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    let all: u64 = kib("MemTotal:").unwrap_or(u64::MAX).saturating_add(kib("SwapTotal:").unwrap_or(0)) / 1024;
    if mib <= all {
        return Ok(());
    }
    Err(Failure::new(format_args!("--memory {mib}M"), format_args!("this host has {all}M, including swap"))
        .with_hint("give the VM less"))
}

/// Checks whether this user can create a user namespace and mount in it, as a share of a single file needs.
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

/// Checks whether guests' memory can be shared with the servers of shares, by creating some as a hypervisor does.
///
/// # Errors
/// Names what is missing.
pub(crate) fn shared_memory() -> Result<(), Failure> {
    let memory = rustix::fs::memfd_create("lamina", rustix::fs::MemfdFlags::CLOEXEC).about("memfd_create")?;
    rustix::fs::ftruncate(&memory, 512 << 20)
        .about("memory of 512 MiB")
        .map_err(|failure| failure.with_hint("raise the limit of file sizes: ulimit -f unlimited"))
}

/// Checks whether this user can mount FUSE file systems, by mounting an empty view and listing it. With `others`, the
/// mount is open to other users too.
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
    // Reading waits forever unless the mount is being served.
    let seen = served.and_then(|session| Ok((session, fs::read_dir(&path).map(Iterator::count).about("fuse")?)));
    point.unmount(Unmount::Lazy).about("fuse")?;
    let (session, entries) = seen?;
    session.join();
    if entries == 0 { Ok(()) } else { Err(Failure::new("fuse", "an empty mount is not empty")) }
}

/// Returns the first line that a program prints when it is asked for its version.
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
        .ok_or_else(|| Failure::new(program.display(), "it does not print its version"))
}
