//! A socket that answers with the counters of a mount.

use crate::stats::{Snapshot, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a client may take to accept the answer before it is dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long nobody is let in after the host has refused to (`EMFILE`): whoever waits makes the next attempt at once.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Bytes of an answer that are believed: a snapshot with every counter at its largest takes about 40 KiB.
const MAX_ANSWER: u64 = 1 << 20;

/// Why counters cannot be offered or had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// The socket cannot be made.
    #[error("{path}: cannot make the statistics socket: {cause}; name another place for it")]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Nobody answers.
    #[error("{path}: no mount answers there: {cause}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// What came is no snapshot.
    #[error("{path}: not the statistics of a mount: {cause}")]
    Answer {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
}

/// A Unix socket that sends whoever connects one [`Snapshot`] as JSON and hangs up. Gone when dropped.
#[derive(Debug)]
pub struct StatsSocket {
    path: PathBuf,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl StatsSocket {
    /// Listens at `path`, replacing the socket of a mount that has died.
    ///
    /// # Errors
    /// [`StatsError::Bind`], also where a live mount listens there already.
    pub fn bind(path: &Path, stats: Arc<Stats>) -> Result<Self, StatsError> {
        let failed = |cause| StatsError::Bind { path: path.to_owned(), cause };
        if UnixStream::connect(path).is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        if path.symlink_metadata().is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())) {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let thread = std::thread::Builder::new().name("stats".to_owned());
        let thread = thread.spawn(move || answer_until(&stopped, &listener, &stats)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), stop: Some(stop), thread: Some(thread) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StatsSocket {
    fn drop(&mut self) {
        // Before the listener: once nobody answers, another mount may have made a socket of its own there.
        // Nobody is helped by hearing that it was gone already.
        drop(std::fs::remove_file(&self.path));
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Removes the socket at `path` if its server is dead: no process listens.
pub(super) fn clear_dead_socket(path: &Path) {
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        drop(std::fs::remove_file(path));
    }
}

fn answer_until(stopped: &io::PipeReader, listener: &UnixListener, stats: &Stats) {
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
            Ok((client, _)) => {
                if let Err(error) = answer(client, stats) {
                    tracing::debug!(%error, "a client left before it had the statistics");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Ends early, and is noticed above, when the socket is told to stop.
            Err(_) => drop(poll(&mut [PollFd::new(stopped, PollFlags::IN)], Some(&PAUSE))),
        }
    }
}

fn answer(mut client: UnixStream, stats: &Stats) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(&stats.snapshot())?;
    text.push(b'\n');
    client.write_all(&text)
}

/// Asks the mount whose socket is at `path` for its counters.
///
/// # Errors
/// [`StatsError::Connect`] or [`StatsError::Answer`].
pub fn fetch_stats(path: &Path) -> Result<Snapshot, StatsError> {
    let failed = |cause| StatsError::Connect { path: path.to_owned(), cause };
    let socket = UnixStream::connect(path).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = Vec::new();
    socket.take(MAX_ANSWER).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|cause| StatsError::Answer { path: path.to_owned(), cause })
}

/// Where the mount at `mount_point` has its socket unless told otherwise: `fuse-<connection>.stats` in
/// `$XDG_RUNTIME_DIR/lamina`, else `/run/lamina` for root, else `/tmp/lamina-<uid>`. The directory is made if it is
/// missing. No message is sent to the mount.
///
/// # Errors
/// If the mount point cannot be looked at, or the directory is not this user's alone.
pub fn stats_socket_path(mount_point: &Path) -> io::Result<PathBuf> {
    let directory = configured_directory().unwrap_or_else(fallback_directory);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    if !is_ours_alone(&directory) {
        let text = format!("{} is not a directory that only this user can write to", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(directory.join(socket_name(mount_point)?))
}

/// Where the socket of the mount at `mount_point` is: at [`stats_socket_path`], or where the mount put it that was made
/// without `$XDG_RUNTIME_DIR` or with the one that a login sets. The first if nobody answers anywhere.
///
/// # Errors
/// As [`stats_socket_path`].
pub fn find_stats_socket(mount_point: &Path) -> io::Result<PathBuf> {
    let expected = stats_socket_path(mount_point)?;
    let possible = possible_sockets(mount_point)?;
    Ok(possible.into_iter().find(|path| UnixStream::connect(path).is_ok()).unwrap_or(expected))
}

/// Wherever a mount of this user at `mount_point` can have its socket.
pub(super) fn possible_sockets(mount_point: &Path) -> io::Result<Vec<PathBuf>> {
    let name = socket_name(mount_point)?;
    let of_login = Path::new("/run/user").join(rustix::process::geteuid().as_raw().to_string()).join("lamina");
    let directories = configured_directory().into_iter().chain([of_login, fallback_directory()]);
    Ok(directories.filter(|directory| is_ours_alone(directory)).map(|directory| directory.join(&name)).collect())
}

fn socket_name(mount_point: &Path) -> io::Result<String> {
    Ok(format!("fuse-{}.stats", super::mount::connection_number(mount_point)?))
}

fn configured_directory() -> Option<PathBuf> {
    let value = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    value.is_absolute().then(|| value.join("lamina"))
}

fn fallback_directory() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() { PathBuf::from("/run/lamina") } else { PathBuf::from(format!("/tmp/lamina-{}", uid.as_raw())) }
}

/// Whether nobody else can have put a socket there.
fn is_ours_alone(directory: &Path) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    let found = directory.symlink_metadata();
    found.is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0)
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
