//! A view carried to a VM over vhost-user-fs, from threads of this process: no mount, no root, no descriptor per
//! inode, and the same server (its policy, its counters) as kernel FUSE.
//!
//! The device is that of the virtio specification, section 5.11: queue 0 carries requests that want no reply, the
//! others everything else. The VMM shares the guest's memory, so it must be given as shared memory; the VMM also owns
//! the device's configuration (tag, number of queues), and there is neither a DAX window nor a notification queue.

mod backend;
mod chain;

use backend::FsBackend;
use composefs_fuse::Server;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Why a view cannot be served over vhost-user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// The socket cannot be made.
    #[error("{path}: cannot make the vhost-user socket: {cause}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// A thread or a pipe cannot be had.
    #[error("cannot serve vhost-user: {0}")]
    Start(io::Error),
    /// The VMM did not keep to the protocol, or shares memory that cannot be mapped.
    #[error("the VMM and the vhost-user device disagree: {0}")]
    Protocol(String),
}

/// One vhost-user-fs device, waiting for its VMM or serving it.
///
/// It serves one connection and ends when the VMM hangs up. Dropping it ends it at once, and leaves neither socket nor
/// thread.
#[derive(Debug)]
pub struct VhostUserFs {
    socket: PathBuf,
    shared: Arc<Shared>,
    stop: PipeWriter,
    thread: Option<JoinHandle<Result<(), VhostUserError>>>,
}

/// What the serving thread and the owner of the device both see.
#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    connection: Mutex<Option<ShutdownHandle>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

impl Shared {
    /// Ends the connection if there is one. Whichever of this and [`Shared::connected`] comes second does it.
    fn hang_up(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(connection) = &*self.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            connection.shutdown();
        }
    }

    fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn connected(&self, connection: Option<ShutdownHandle>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        if self.has_stopped() {
            self.hang_up();
        }
    }
}

impl VhostUserFs {
    /// Makes `socket` and serves the first VMM that connects to it, from a thread of its own. When this returns, the VMM
    /// can be started.
    ///
    /// # Errors
    /// [`VhostUserError::Bind`] also where something is at `socket` already, [`VhostUserError::Start`].
    pub fn listen(server: Arc<Server>, socket: &Path) -> Result<Self, VhostUserError> {
        let failed = |cause| VhostUserError::Bind { path: socket.to_owned(), cause };
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let started = || {
            let (stopped, stop) = io::pipe()?;
            let shared = Arc::new(Shared::default());
            let theirs = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("vhost-user-fs".to_owned());
            let thread = thread.spawn(move || serve(server, listener, &stopped, &theirs))?;
            Ok(Self { socket: socket.to_owned(), shared, stop, thread: Some(thread) })
        };
        started().map_err(|error| {
            drop(std::fs::remove_file(socket));
            VhostUserError::Start(error)
        })
    }

    /// Where the VMM connects.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether it has ended: the VMM hung up, or it was stopped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, whether a VMM is connected or not.
    pub fn stop(&self) {
        // The reader is gone only when the thread is.
        drop((&self.stop).write(&[0]));
        self.shared.hang_up();
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// What ended it, unless the VMM hung up or [`VhostUserFs::stop`] was called.
    pub fn wait(mut self) -> Result<(), VhostUserError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), VhostUserError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(VhostUserError::Protocol("the serving thread panicked".to_owned())))
    }
}

impl Drop for VhostUserFs {
    fn drop(&mut self) {
        self.stop();
        if let Err(error) = self.join() {
            tracing::debug!(%error, "a vhost-user device ended while it was dropped");
        }
        // Gone already where a VMM had connected.
        drop(std::fs::remove_file(&self.socket));
    }
}

/// Waits for a VMM, then serves it.
fn serve(
    server: Arc<Server>,
    listener: UnixListener,
    stopped: &PipeReader,
    shared: &Arc<Shared>,
) -> Result<(), VhostUserError> {
    if !has_visitor(&listener, stopped)? {
        return Ok(());
    }
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let backend = Arc::new(FsBackend::new(server, Arc::clone(shared), memory.clone()));
    let mut daemon = VhostUserDaemon::new("vhost-user-fs".to_owned(), backend, memory).map_err(disagreement)?;
    daemon.start(&mut Listener::from(listener)).map_err(disagreement)?;
    shared.connected(daemon.shutdown_handle());
    let outcome = daemon.wait();
    // The worker, which the daemon waits for when it is dropped, may still have a full queue before it.
    shared.stopped.store(true, Ordering::SeqCst);
    shared.connected(None);
    match outcome {
        Ok(()) | Err(DaemonError::HandleRequest(ProtocolError::Disconnected | ProtocolError::PartialMessage)) => Ok(()),
        Err(error) => Err(disagreement(error)),
    }
}

/// Waits until someone connects, or returns false when told to stop.
fn has_visitor(listener: &UnixListener, stopped: &PipeReader) -> Result<bool, VhostUserError> {
    loop {
        let mut waited = [PollFd::new(stopped, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut waited, None) {
            Ok(_) => return Ok(waited.first().is_some_and(|stop| stop.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(VhostUserError::Start(errno.into())),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn disagreement(error: DaemonError) -> VhostUserError {
    VhostUserError::Protocol(error.to_string())
}

#[cfg(test)]
mod tests;
