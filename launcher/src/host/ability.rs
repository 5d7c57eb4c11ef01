//! What this host can do, found out by doing it.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use composefs_fuse::Server;
use composefs_fuse::linux::{Unmount, Workers};
use composefs_fuse::mount::{MountOptions, MountPoint};
use layer_store::{Silent, Store};

use crate::failure::{About, Failure};

/// Checks whether this host has enough memory and swap for a guest of this size. The kernel does not refuse a larger
/// guest, but kills it later, perhaps with other processes of this host.
///
/// # Errors
/// It does not.
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

/// Returns the id of this boot of the host, which no other boot has; or nothing if the kernel does not tell it.
#[must_use]
pub(crate) fn current_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or(String::new(), |text| text.trim().to_owned())
}
