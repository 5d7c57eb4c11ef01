//! A mount from its beginning to its end: what `composefs-fuse` and `lamina mount` both run.

use super::mount::{MountError, MountOptions, MountPoint, Unmount, connection_number};
use super::readahead;
use super::session::{Session, SessionError, SessionEvent};
use super::stats_socket::{StatsError, StatsSocket, stats_socket_path};
use crate::server::Server;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long threads may take to notice that the mount is gone. They wait in the kernel, which wakes them at once;
/// one may be reading from a slow disk.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a mount is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How it is mounted.
    pub mount: MountOptions,
    /// Threads that answer; at least one. All wait on one queue in the kernel, so more of them answer no faster; but a
    /// thread that waits for the disk answers nobody else, and four readers of a cold tree wait for four reads at once.
    pub threads: usize,
    /// Where the counters can be asked for.
    pub stats: StatsOutlet,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { mount: MountOptions::default(), threads: 4, stats: StatsOutlet::Default }
    }
}

/// Where the counters of a mount can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatsOutlet {
    /// Nowhere.
    None,
    /// At [`stats_socket_path`] of the mount point, if a socket can be made there; the mount works without.
    #[default]
    Default,
    /// At this socket, which must work.
    At(PathBuf),
}

/// How a mount came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Someone unmounted it.
    Unmounted,
    /// A signal asked for it, and it was unmounted.
    Signal(i32),
    /// A signal asked for it while files were open: it is out of the tree, and those files fail with `ENOTCONN` when
    /// this process ends. Threads may still be serving them.
    SignalWhileBusy(i32),
}

/// Why a mount could not be served to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It could not be mounted, or not be unmounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel could not be talked to.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The socket that was asked for cannot be made.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    /// Whoever waits for the tree could not be told; they are gone, and so is the mount.
    #[error("nobody waits for the mount any more: {0}")]
    Unwanted(io::Error),
}

/// Mounts `server`'s view on `mount_point` and serves it until it is unmounted or `SIGTERM`, `SIGINT` or `SIGHUP`
/// comes. `ready` is called once the tree can be read; if it fails, the mount is taken away again.
///
/// Whatever the outcome, the mount is gone from the tree when this returns.
///
/// # Errors
/// Says what could not be done.
pub fn serve(
    server: &Arc<Server>,
    mount_point: &MountPoint,
    options: &ServeOptions,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Ended, ServeError> {
    let (sender, events) = channel();
    // Before anything is mounted: a signal from here on is kept until it can be answered.
    let signals = SignalThread::start(sender.clone())?;
    let device = mount_point.mount(&options.mount)?;
    let mut mounted = Mounted::new(mount_point)?;
    let session = Session::start(server, device, options.threads, &sender)?;
    // After the handshake, which sets it. Root alone may; nothing depends on it.
    if let Err(error) = readahead::raise(mounted.connection) {
        tracing::debug!("reading ahead 128 KiB at a time: {error}");
    }
    let _socket = stats_socket(server, mount_point, &options.stats)?;
    ready().map_err(ServeError::Unwanted)?;
    let ended = wait(&events, session, &mut mounted);
    drop(signals);
    ended
}

/// Waits for the end of a mount that works.
fn wait(events: &Receiver<SessionEvent>, session: Session, mounted: &mut Mounted<'_>) -> Result<Ended, ServeError> {
    let mut living = session.threads();
    let mut ended = Ended::Unmounted;
    let mut failure = None;
    while living > 0 {
        let event = match ended {
            Ended::Unmounted => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => events.recv_timeout(FAREWELL),
        };
        match event {
            Ok(SessionEvent::WorkerEnded(outcome)) => {
                living -= 1;
                mounted.is_gone |= outcome.is_ok();
                failure = outcome.err().or(failure);
            }
            Ok(SessionEvent::Signal(signal)) if ended == Ended::Unmounted => {
                match mounted.mount_point.unmount(Unmount::Clean) {
                    // Someone else may have been quicker.
                    Ok(()) | Err(MountError::NotMounted(_)) => ended = Ended::Signal(signal),
                    Err(MountError::Busy(_)) => return Ok(Ended::SignalWhileBusy(signal)),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(SessionEvent::Signal(_)) => {}
            Err(_) => return Ok(ended),
        }
    }
    session.join();
    match failure {
        None => Ok(ended),
        Some(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
            tracing::warn!("{}: the connection was aborted", mounted.mount_point.path().display());
            Ok(ended)
        }
        Some(error) => Err(SessionError::Device(error).into()),
    }
}

fn stats_socket(
    server: &Server,
    mount_point: &MountPoint,
    outlet: &StatsOutlet,
) -> Result<Option<StatsSocket>, StatsError> {
    let bind = |path: &PathBuf| StatsSocket::bind(path, Arc::clone(server.stats()));
    match outlet {
        StatsOutlet::None => Ok(None),
        StatsOutlet::At(path) => bind(path).map(Some),
        StatsOutlet::Default => {
            let path = stats_socket_path(mount_point.path());
            let path = path.map_err(|cause| StatsError::Bind { path: mount_point.path().to_owned(), cause });
            match path.and_then(|path| bind(&path)) {
                Ok(socket) => Ok(Some(socket)),
                Err(error) => {
                    tracing::warn!("the mount works without statistics: {error}");
                    Ok(None)
                }
            }
        }
    }
}

/// Takes the mount away when dropped, lazily, if it is still there.
///
/// It is there although the threads have ended where the connection was aborted (`/sys/fs/fuse/connections`).
struct Mounted<'a> {
    mount_point: &'a MountPoint,
    connection: u32,
    /// The kernel has said so. By now its number may be that of another mount, even of one at the same place.
    is_gone: bool,
}

impl<'a> Mounted<'a> {
    fn new(mount_point: &'a MountPoint) -> Result<Self, MountError> {
        match connection_number(mount_point.path()) {
            Ok(connection) => Ok(Self { mount_point, connection, is_gone: false }),
            Err(cause) => {
                mount_point.unmount(Unmount::Lazy)?;
                Err(MountError::Unreadable { path: mount_point.path().to_owned(), cause })
            }
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Whatever else is mounted there by now is not ours to take away.
        if !self.is_gone
            && connection_number(self.mount_point.path()).is_ok_and(|found| found == self.connection)
            && let Err(error) = self.mount_point.unmount(Unmount::Lazy)
        {
            tracing::warn!("cannot take the mount away: {error}");
        }
    }
}

/// Turns signals into events until dropped.
struct SignalThread {
    handle: signal_hook::iterator::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SignalThread {
    fn start(events: Sender<SessionEvent>) -> Result<Self, ServeError> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(ServeError::Signals)?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if events.send(SessionEvent::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { handle, thread: Some(thread.map_err(ServeError::Signals)?) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
