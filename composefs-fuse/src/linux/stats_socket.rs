//! A socket that answers with the counters of a mount. It also tells other commands when the server has ended.

use super::mount_table::{connection_number, mounted_by};
use crate::stats::{Snapshot, Stats};
use layer_store::user_dirs::{self, UserDirError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::geteuid;
use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client may take to accept the answer before it is dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait after the host has refused a connection (`EMFILE`), which would otherwise be tried again at once.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The most bytes of an answer that are read. A snapshot with every counter at its largest takes about 40 KiB.
const MAX_ANSWER: u64 = 1 << 20;

/// How long servers whose mount is gone may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Why counters cannot be offered or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// The socket cannot be created.
    #[error("{path}: cannot create the statistics socket: {source}; choose another place for it")]
    Bind {
        /// Where.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The directory for sockets cannot be used.
    #[error("no place for the statistics socket: {0}")]
    Directory(#[from] UserDirError),
    /// The mount point cannot be read.
    #[error("{path}: {source}")]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// No server answers.
    #[error("{path}: no mount answers there: {source}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The answer is not a snapshot.
    #[error("{path}: not the statistics of a mount: {source}")]
    Answer {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A Unix socket that sends each client one [`Snapshot`] as JSON and hangs up. Dropping it removes it.
///
/// If the mount is gone already, clients get no answer. They are held until the socket is dropped, which its owner does
/// after it has let go of the store: so a client can wait for that.
#[derive(Debug)]
pub struct StatsSocket {
    path: PathBuf,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl StatsSocket {
    /// Listens at `path`. Replaces the socket of a server that has died.
    ///
    /// # Errors
    /// [`StatsError::Bind`], including when a live server already listens there.
    pub fn bind(path: &Path, stats: Arc<Stats>) -> Result<Self, StatsError> {
        Self::start(path, stats, None)
    }

    /// The same for a mount whose requests come from `device`.
    ///
    /// # Errors
    /// As [`StatsSocket::bind`].
    pub(super) fn bind_for_mount(path: &Path, stats: Arc<Stats>, device: OwnedFd) -> Result<Self, StatsError> {
        Self::start(path, stats, Some(device))
    }

    fn start(path: &Path, stats: Arc<Stats>, device: Option<OwnedFd>) -> Result<Self, StatsError> {
        let failed = |source| StatsError::Bind { path: path.to_owned(), source };
        if UnixStream::connect(path).is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let thread = std::thread::Builder::new().name("stats".to_owned());
        let thread = thread.spawn(move || answer_until(&stopped, &listener, &stats, device.as_ref()));
        Ok(Self { path: path.to_owned(), stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StatsSocket {
    fn drop(&mut self) {
        // Before the listener is closed: after that another mount may have created its own socket there.
        // If it is gone already, that is what was wanted.
        drop(fs::remove_file(&self.path));
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Removes the socket at `path` if its server is dead, which is when no process listens.
pub(super) fn clear_dead_socket(path: &Path) {
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        drop(fs::remove_file(path));
    }
}

fn answer_until(stopped: &io::PipeReader, listener: &UnixListener, stats: &Stats, device: Option<&OwnedFd>) {
    // Clients that wait for the end of this server.
    let mut waiting = Vec::new();
    loop {
        let mut waited = [PollFd::new(stopped, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut waited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return tracing::warn!(%errno, "the statistics socket has stopped"),
        }
        let [stop, _] = &waited;
        if !stop.revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((client, _)) if device.is_some_and(is_gone) => waiting.push(client),
            Ok((client, _)) => {
                if let Err(error) = answer(client, stats) {
                    tracing::debug!(%error, "a client left before it had the statistics");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // This wait ends early if the socket is told to stop, which the next round notices.
            Err(_) => drop(poll(&mut [PollFd::new(stopped, PollFlags::IN)], Some(&PAUSE))),
        }
    }
}

/// Returns whether the mount whose requests come from `device` is gone: `fuse_dev_poll` in `fs/fuse/dev.c` reports an
/// error as soon as the kernel has ended the connection.
fn is_gone(device: &OwnedFd) -> bool {
    let mut device = [PollFd::new(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut device, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn answer(mut client: UnixStream, stats: &Stats) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(&stats.snapshot())?;
    text.push(b'\n');
    client.write_all(&text)
}

/// Fetches the counters of the mount whose socket is at `path`.
///
/// # Errors
/// [`StatsError::Connect`] or [`StatsError::Answer`].
pub fn fetch_stats(path: &Path) -> Result<Snapshot, StatsError> {
    let failed = |source| StatsError::Connect { path: path.to_owned(), source };
    let socket = UnixStream::connect(path).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = Vec::new();
    socket.take(MAX_ANSWER).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| StatsError::Answer { path: path.to_owned(), source })
}

/// Waits until the server whose socket is at `path` has let go of the store, if its mount is gone. Returns false if it
/// has not done so by `deadline`.
pub(super) fn wait_for_end(path: &Path, deadline: Instant) -> bool {
    let Ok(mut socket) = UnixStream::connect(path) else { return true };
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    if socket.set_read_timeout(Some(left)).is_err() {
        return true;
    }
    // A byte is the beginning of an answer, so the mount is there. An end of file, or a reset, means that the server
    // has ended.
    !matches!(socket.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Waits a few seconds for this user's servers whose mount is gone to end. Returns whether all have.
///
/// A program that is about to free what is not in use should call this first: a mount that `fusermount3 -u` or
/// umount(8) took away a moment ago may still have a server, which holds layers in use until it has noticed.
#[must_use]
pub fn wait_for_ending_mounts() -> bool {
    let deadline = Instant::now() + END_PATIENCE;
    let directories = user_dirs::possible_runtimes(geteuid().as_raw());
    let files = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let is_socket = |name: &str| name.starts_with("fuse-") && name.ends_with(".stats");
    let sockets = files.filter(|file| file.file_name().to_str().is_some_and(is_socket));
    sockets.filter(|socket| !wait_for_end(&socket.path(), deadline)).count() == 0
}

/// Returns where the mount at `mount_point` has its socket by default: `fuse-CONNECTION.stats` in the directory for
/// sockets ([`user_dirs::runtime`]), which is created if it is missing. Sends no message to the mount.
///
/// # Errors
/// [`StatsError::Directory`] or [`StatsError::MountPoint`].
pub(super) fn stats_socket_path(mount_point: &Path) -> Result<PathBuf, StatsError> {
    Ok(user_dirs::runtime()?.join(socket_name(mount_point)?))
}

/// Returns where the socket of the mount at `mount_point` is. A mount that was made with a different `XDG_RUNTIME_DIR`
/// is found too, if that was the one of a login, or was not set. If no server answers at any of them, this is the
/// default.
///
/// # Errors
/// [`StatsError::Directory`] or [`StatsError::MountPoint`].
pub fn find_stats_socket(mount_point: &Path) -> Result<PathBuf, StatsError> {
    let possible = possible_sockets(mount_point)?;
    match possible.into_iter().find(|path| UnixStream::connect(path).is_ok()) {
        Some(found) => Ok(found),
        None => stats_socket_path(mount_point),
    }
}

/// Returns each place where the server of the mount at `mount_point` can have its default socket, which is in a
/// directory of the user whose mount it is.
pub(super) fn possible_sockets(mount_point: &Path) -> Result<Vec<PathBuf>, StatsError> {
    let name = socket_name(mount_point)?;
    let owner = mounted_by(mount_point).ok().flatten().unwrap_or_else(|| geteuid().as_raw());
    Ok(user_dirs::possible_runtimes(owner).iter().map(|directory| directory.join(&name)).collect())
}

fn socket_name(mount_point: &Path) -> Result<String, StatsError> {
    let number = connection_number(mount_point);
    let number = number.map_err(|source| StatsError::MountPoint { path: mount_point.to_owned(), source })?;
    Ok(format!("fuse-{number}.stats"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_answers_with_a_snapshot_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let stats = Arc::new(Stats::new());
        stats.record_panic();
        let socket = StatsSocket::bind(&path, Arc::clone(&stats)).unwrap();
        assert_eq!(fetch_stats(&path).unwrap().panics, 1);
        assert!(matches!(StatsSocket::bind(&path, Arc::clone(&stats)), Err(StatsError::Bind { .. })));
        drop(socket);
        assert!(!path.exists());
        assert!(matches!(fetch_stats(&path), Err(StatsError::Connect { .. })));
    }

    /// A pipe whose other end is closed looks to `poll` like `/dev/fuse` after the mount is gone.
    #[test]
    fn a_client_of_a_mount_that_is_gone_waits_until_its_server_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (reader, device) = io::pipe().unwrap();
        let socket = StatsSocket::bind_for_mount(&path, Arc::new(Stats::new()), device.into()).unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        assert!(wait_for_end(&path, soon()), "the mount is there");
        assert_eq!(fetch_stats(&path).unwrap().total(), 0);
        drop(reader);
        assert!(!wait_for_end(&path, soon()), "the mount is gone and the server is not");
        let waiting = std::thread::spawn(move || wait_for_end(&path, Instant::now() + Duration::from_secs(600)));
        drop(socket);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn the_socket_of_a_dead_server_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = StatsSocket::bind(&path, Arc::new(Stats::new())).unwrap();
        assert_eq!(fetch_stats(&path).unwrap().total(), 0);
    }
}
