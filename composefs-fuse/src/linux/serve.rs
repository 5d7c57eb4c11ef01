//! A mount from its beginning to its end.

use super::mount_table::connection_number;
use super::stats_socket::{StatsError, StatsSocket, stats_socket_path};
use super::unmount::Unmount;
use super::workers::{DeviceError, ServeEvent, Transport, Workers};
use crate::mount::{EXIT_PATIENCE, Ended, MountError, MountOptions, MountPoint, Served, SignalThread};
use crate::server::Server;
use crate::stats::Stats;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// Kilobytes that root's mounts read ahead. A file in order costs fewer messages with more, but Linux reads as much around
/// each page of a mapping, too (`do_sync_mmap_readahead`).
const READAHEAD_KILOBYTES: u32 = 256;

/// How a mount is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How it is mounted.
    pub mount: MountOptions,
    /// How many threads answer requests, at least one. All wait on one queue in the kernel, so more threads answer a
    /// single reader no faster. But a thread that waits for the disk answers no other request, and four readers of a
    /// cold tree need four reads at once. FUSE over io_uring has a queue for each processor, and at least one thread for each.
    pub threads: usize,
    /// What carries the requests.
    pub transport: Transport,
    /// Where the counters can be read.
    pub stats: StatsOutlet,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            mount: MountOptions::default(),
            threads: 4,
            transport: Transport::default(),
            stats: StatsOutlet::default(),
        }
    }
}

/// Where the counters of a mount can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatsOutlet {
    /// At a socket in the user's runtime directory, if it can be created there. The mount works without it.
    #[default]
    Default,
    /// At this socket, which must work, and at the default one.
    At(PathBuf),
}

/// Why a mount could not be served to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It could not be mounted or unmounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel's requests could not be answered.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The requested socket cannot be created.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    /// The process that waits for the tree has ended, so the mount was taken away.
    #[error("no process waits for the mount any more: {0}")]
    Unwanted(#[source] io::Error),
}

/// Mounts the view of `server` on `mount_point` and serves it until it is unmounted, or until `SIGTERM`, `SIGINT` or
/// `SIGHUP` arrives. Calls `ready` once the tree can be read; if that fails, the mount is taken away.
///
/// The mount is gone from the tree when this returns, whatever the result. If there is no other reference to `server`,
/// then so is its view and what that holds of the store, before anything that waits at the statistics socket goes on.
///
/// # Errors
/// Says what could not be done.
pub fn serve(
    server: Arc<Server>,
    mount_point: &MountPoint,
    options: &ServeOptions,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Served, ServeError> {
    let stats = Arc::clone(server.stats());
    let (sender, events) = channel();
    // Before anything is mounted: a signal from here on is kept until it can be handled.
    let told = sender.clone();
    let signals = SignalThread::start(move |signal| told.send(ServeEvent::Signal(signal)).is_ok());
    let signals = signals.map_err(ServeError::Signals)?;
    let device = mount_point.mount(&options.mount)?;
    let mut mounted = Mounted::new(mount_point, &options.mount)?;
    let watched = device.try_clone().map_err(DeviceError::from)?;
    let start = match options.transport {
        Transport::Device => Workers::start,
        Transport::Fuser => Workers::start_portable,
    };
    let workers = start(&server, device, options.threads, &sender)?;
    // After the handshake, which sets it. Only root may, and nothing depends on it.
    if let Err(error) = raise_readahead(mounted.connection) {
        tracing::debug!("reading ahead 128 KiB at a time: {error}");
    }
    let sockets = stats_sockets(&stats, mount_point, &options.stats, &watched)?;
    drop(watched);
    ready().map_err(ServeError::Unwanted)?;
    let ended = wait(&events, workers, &mut mounted);
    drop(signals);
    drop(server);
    drop(sockets);
    Ok(Served { ended: ended?, stats })
}

/// Raises the read-ahead of a FUSE connection. The kernel allows 128 KiB unless root changes that
/// (`VM_READAHEAD_PAGES`), and the handshake can only lower it.
fn raise_readahead(connection: u32) -> io::Result<()> {
    // A file system without a device has major number 0.
    std::fs::write(format!("/sys/class/bdi/0:{connection}/read_ahead_kb"), READAHEAD_KILOBYTES.to_string())
}

/// Waits until a mount ends.
fn wait(events: &Receiver<ServeEvent>, workers: Workers, mounted: &mut Mounted<'_>) -> Result<Ended, ServeError> {
    let mut living = workers.threads();
    let mut ended = Ended::Unmounted;
    let mut failure = None;
    while living > 0 {
        let event = match ended {
            Ended::Unmounted => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => events.recv_timeout(EXIT_PATIENCE),
        };
        match event {
            Ok(ServeEvent::WorkerEnded(outcome)) => {
                living -= 1;
                mounted.is_gone |= outcome.is_ok();
                if let Err(error) = &outcome
                    && error.kind() != io::ErrorKind::ConnectionAborted
                    && failure.is_none()
                {
                    // Nothing would answer what this thread was to answer: requests of one processor, with io_uring.
                    tracing::error!("{}: the mount ends: {error}", mounted.mount_point.path().display());
                    drop(mounted.unmount(Unmount::Lazy));
                }
                failure = outcome.err().or(failure);
            }
            Ok(ServeEvent::Signal(signal)) if ended == Ended::Unmounted => {
                match mounted.unmount(Unmount::Clean) {
                    // Another process may have been quicker.
                    Ok(()) | Err(MountError::NotMounted(_)) => ended = Ended::Signal(signal),
                    Err(MountError::Busy(_)) => return Ok(Ended::SignalWhileBusy(signal)),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(ServeEvent::Signal(_)) => {}
            Err(_) => return Ok(ended),
        }
    }
    workers.join();
    match failure {
        None => Ok(ended),
        Some(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
            tracing::warn!("{}: the connection was aborted", mounted.mount_point.path().display());
            Ok(ended)
        }
        Some(error) => Err(DeviceError::Io(error).into()),
    }
}

/// Creates the sockets at which the counters can be read. The default one is created in any case, because other
/// commands wait there for the end of this server.
fn stats_sockets(
    stats: &Arc<Stats>,
    mount_point: &MountPoint,
    outlet: &StatsOutlet,
    device: &OwnedFd,
) -> Result<Vec<StatsSocket>, ServeError> {
    let bind = |path: &Path| {
        let device = device.try_clone().map_err(|source| StatsError::Bind { path: path.to_owned(), source })?;
        StatsSocket::bind_for_mount(path, Arc::clone(stats), device)
    };
    let mut sockets = Vec::new();
    if let StatsOutlet::At(path) = outlet {
        sockets.push(bind(path)?);
    }
    match stats_socket_path(mount_point.path()).and_then(|path| bind(&path)) {
        Ok(socket) => sockets.push(socket),
        Err(error) if sockets.is_empty() => tracing::warn!("the mount works without statistics: {error}"),
        Err(error) => tracing::debug!("no default statistics socket: {error}"),
    }
    Ok(sockets)
}

/// Unmounts lazily when dropped, if the mount is still there.
///
/// It still is, although the threads have ended, if the connection was aborted (`/sys/fs/fuse/connections`).
struct Mounted<'a> {
    mount_point: &'a MountPoint,
    subtype: &'a str,
    connection: u32,
    /// The kernel has said that the mount is gone. Its number may already be that of another one, even at the same
    /// place.
    is_gone: bool,
}

impl<'a> Mounted<'a> {
    fn new(mount_point: &'a MountPoint, options: &'a MountOptions) -> Result<Self, MountError> {
        let subtype = &options.subtype;
        match connection_number(mount_point.path()) {
            Ok(connection) => Ok(Self { mount_point, subtype, connection, is_gone: false }),
            Err(source) => {
                mount_point.unmount_type(subtype, Unmount::Lazy)?;
                Err(MountError::Unreadable { path: mount_point.path().to_owned(), source })
            }
        }
    }

    fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        self.mount_point.unmount_type(self.subtype, how)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Another mount may be there by now, which must stay.
        if !self.is_gone
            && connection_number(self.mount_point.path()).is_ok_and(|found| found == self.connection)
            && let Err(error) = self.unmount(Unmount::Lazy)
        {
            tracing::warn!("cannot unmount: {error}");
        }
    }
}
