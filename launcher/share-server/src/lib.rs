//! Serves a directory of the host to one guest, as a vhost-user-fs device.
//!
//! The file system is virtiofsd's, used as a library, because its program has no options for two things that make a
//! share behave like a bind mount:
//!
//! - **The guest caches no names and attributes.** What the host renames, replaces or removes is seen by the next
//!   `open` or `stat` in the guest. File content stays in the guest's page cache between an `open` and the next one, so
//!   shared memory maps work. (The program offers one second with a page cache, or neither.)
//! - **The whole share belongs to one user of the guest**, [`GuestOwner`], if an ordinary user serves it: that user may
//!   do there what the host's user may do. Whatever owner the guest sets, the file belongs to the host's user, so
//!   `chown`, `cp -a` and `tar` succeed.
//!
//! The server runs in its own namespaces, or in its own root ([`Sandbox`]), with only the capabilities that a
//! file server needs and the system calls on virtiofsd's list.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use rustix::process::{Resource, Signal, getgid, getrlimit, getuid, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::idmap::{GidMap, UidMap};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::sandbox::SandboxMode;
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use virtiofsd::{limits, oslib, sandbox};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// A directory to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The directory.
    pub directory: PathBuf,
    /// The socket to listen on. It is created, and removed once the hypervisor has connected. Without a path, standard
    /// input is a socket that listens already.
    pub socket: Option<PathBuf>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What confines the server.
    pub sandbox: Sandbox,
    /// The user of the guest that everything belongs to. Without one, owners are as they are on the host, which only
    /// root can serve.
    pub owner: Option<GuestOwner>,
}

/// What confines the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Its own namespaces, with the shared directory as their root.
    Namespaces,
    /// The shared directory as its root. For a process that is root, if only of a user namespace.
    Root,
}

/// A user and a group of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestOwner {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

/// Why a share cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is not UTF-8, and virtiofsd accepts only UTF-8.
    #[error("{0}: the path is not UTF-8")]
    Path(PathBuf),
    /// The socket cannot be made.
    #[error("{path}: cannot listen on it: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: vhost::vhost_user::Error,
    },
    /// Standard input cannot be listened on.
    #[error("standard input: {0}")]
    StandardInput(#[source] io::Error),
    /// The limit of open files cannot be set.
    #[error("the limit of open files cannot be set: {0}")]
    OpenFiles(String),
    /// The limit of open files leaves none for the guest.
    #[error("this process may open only {0} files; a share needs at least {MIN_OPEN_FILES}")]
    FewOpenFiles(u64),
    /// The sandbox cannot be entered.
    #[error("the sandbox of a share cannot be entered: {0}")]
    Sandbox(#[source] sandbox::Error),
    /// The kernel cannot be asked to end this process with its parent.
    #[error("the server cannot be made to end with its parent: {0}")]
    Parent(#[source] io::Error),
    /// The list of system calls cannot be set.
    #[error("the list of system calls cannot be set: {0}")]
    Seccomp(#[source] virtiofsd::seccomp::Error),
    /// Capabilities cannot be given up.
    #[error("capabilities cannot be given up: {0}")]
    Capabilities(#[source] io::Error),
    /// The directory cannot be opened.
    #[error("the directory cannot be served: {0}")]
    Directory(#[source] io::Error),
    /// The device cannot be set up.
    #[error("the device cannot be set up: {0}")]
    Device(String),
}

/// Open files that the server needs besides those of the guest: one for each range of the guest's memory, and a few
/// more.
pub const OWN_OPEN_FILES: u64 = 609;
/// The fewest open files with which a guest can do anything.
const MIN_OPEN_FILES: u64 = OWN_OPEN_FILES + 128;
/// The most that the server asks for.
const MAX_OPEN_FILES: u64 = 1_000_000;

/// The capabilities that a file server needs.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Serves `share` until the hypervisor closes the connection. The process must have one thread.
///
/// # Errors
/// The share cannot be served.
pub fn serve(share: &Share) -> Result<(), Error> {
    start_logger();
    let directory = share.directory.to_str().ok_or_else(|| Error::Path(share.directory.clone()))?;
    let listener = listener(share.socket.as_deref())?;
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    let open_files = limits::setup_rlimit_nofile(Some(most)).map_err(Error::OpenFiles)?;
    if open_files < MIN_OPEN_FILES {
        return Err(Error::FewOpenFiles(open_files));
    }

    let (mode, uids, gids) = match share.sandbox {
        Sandbox::Root => (SandboxMode::Chroot, Vec::new(), Vec::new()),
        Sandbox::Namespaces if getuid().is_root() => (SandboxMode::Namespace, Vec::new(), Vec::new()),
        Sandbox::Namespaces => (
            SandboxMode::Namespace,
            vec![UidMap { inside_uid: 0, outside_uid: getuid().as_raw(), count: 1 }],
            vec![GidMap { inside_gid: 0, outside_gid: getgid().as_raw(), count: 1 }],
        ),
    };
    let mut sandbox = sandbox::Sandbox::new(directory.to_owned(), mode, uids, gids);
    let mountinfo_prefix = sandbox.get_mountinfo_prefix().map_err(Error::Directory)?;
    let listener = sandbox.enter(listener).map_err(Error::Sandbox)?;
    // The sandbox asks for SIGTERM, which the first process of a namespace ignores. Without this it would keep waiting for a hypervisor
    // that ended before it connected.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::Parent(error.into()))?;
    let config = Config {
        entry_timeout: Duration::ZERO,
        attr_timeout: Duration::ZERO,
        cache_policy: CachePolicy::Auto,
        root_dir: sandbox.get_root_dir(),
        mountinfo_prefix,
        xattr: true,
        proc_sfd_rawfd: sandbox.get_proc_self_fd(),
        proc_mountinfo_rawfd: sandbox.get_mountinfo_fd(),
        announce_submounts: true,
        // The guest would ask for the attributes again at once.
        readdirplus: false,
        uid_map: share.owner.map(|owner| all_to_one(owner.uid)),
        gid_map: share.owner.map(|owner| all_to_one(owner.gid)),
        guest_fd_limit: open_files - OWN_OPEN_FILES,
        ..Config::default()
    };
    enable_seccomp(SeccompAction::Kill, false).map_err(Error::Seccomp)?;
    keep_capabilities().map_err(Error::Capabilities)?;
    if share.read_only {
        answer(PassthroughFsRo::new(config).map_err(Error::Directory)?, listener)
    } else {
        answer(PassthroughFs::new(config).map_err(Error::Directory)?, listener)
    }
}

fn listener(socket: Option<&Path>) -> Result<Listener, Error> {
    let Some(path) = socket else {
        let listens = io::stdin().as_fd().try_clone_to_owned().map_err(Error::StandardInput)?;
        return Ok(Listener::from(UnixListener::from(listens)));
    };
    let text = path.to_str().ok_or_else(|| Error::Path(path.to_owned()))?;
    let _only_ours = oslib::ScopedUmask::new(0o077);
    Listener::new(text, true).map_err(|source| Error::Listen { path: path.to_owned(), source })
}

/// Maps every id of the guest to root of our namespace, which is the host's user, and that user to `guest` in the
/// guest.
fn all_to_one(guest: u32) -> Vec<IdMap> {
    vec![
        IdMap::SquashGuest { from_guest: 0, to_host: 0, count: u32::MAX },
        IdMap::SquashHost { from_host: 0, to_guest: guest, count: 1 },
    ]
}

/// Gives up every capability that a file server does not need, even for programs that it might start.
fn keep_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        if !CAPABILITIES.contains(capability) {
            // Fails for a capability that this kernel does not know.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    let sets = CapabilitySets { effective: CAPABILITIES, permitted: CAPABILITIES, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

fn answer<F>(fs: F, mut listener: Listener) -> Result<(), Error>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let device = |error: &dyn std::fmt::Display| Error::Device(error.to_string());
    let backend = VhostUserFsBackendBuilder::default().build(fs).map_err(|error| device(&error))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("share".to_owned(), Arc::new(backend), memory)
        .map_err(|error| Error::Device(format!("{error:?}")))?;
    daemon.start(&mut listener).map_err(|error| device(&error))?;
    // The hypervisor has closed the connection: it has ended, however that is reported.
    let _ = daemon.wait();
    Ok(())
}

/// Writes virtiofsd's warnings to standard error, which is the log of the share.
struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A log that cannot be written is no reason to end.
            let _ = io::stderr().write_all(format!("{}\n", record.args()).as_bytes());
        }
    }

    fn flush(&self) {}
}

fn start_logger() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
