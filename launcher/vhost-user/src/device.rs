//! The device as its owner sees it: a socket, and the thread that serves the VMM which connects there.

use crate::backend::FsBackend;
use crate::block::{BlockBackend, Disk, QUEUES_MAX};
use crate::shutdown::Shutdown;
use crate::{Memory, VhostUserError};
use composefs_fuse::Server;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon, VringMutex};
use vm_memory::GuestMemoryMmap;

/// A vhost-user device that waits for its VMM or serves it: a file system or a disk.
///
/// It serves one connection and ends when the VMM hangs up. Dropping it ends it at once and removes its socket and its
/// thread.
#[derive(Debug)]
pub struct VhostUserDevice {
    socket: PathBuf,
    shutdown: Arc<Shutdown>,
    stop: PipeWriter,
    thread: Option<JoinHandle<Result<(), VhostUserError>>>,
}

impl VhostUserDevice {
    /// The most queues that a disk has.
    pub const DISK_QUEUES_MAX: u16 = QUEUES_MAX;

    /// Creates `socket` and serves a file system to the first VMM that connects to it, from a new thread. The VMM can be
    /// started as soon as this returns.
    ///
    /// # Errors
    /// [`VhostUserError::Bind`], including when `socket` exists already, or [`VhostUserError::Start`].
    pub fn file_system(server: Arc<Server>, socket: &Path) -> Result<Self, VhostUserError> {
        Self::listen(socket, "vhost-user-fs", |shutdown, memory| FsBackend::new(server, shutdown, memory))
    }

    /// Does the same for a read-only disk, which a guest finds by its serial: at most 20 bytes. The VMM must be told the same
    /// number of queues, 1 to [`VhostUserDevice::DISK_QUEUES_MAX`]. Each has a thread.
    ///
    /// # Errors
    /// As for [`VhostUserDevice::file_system`].
    pub fn disk(disk: Arc<dyn Disk>, serial: &str, queues: u16, socket: &Path) -> Result<Self, VhostUserError> {
        let serial = serial.to_owned();
        Self::listen(socket, "vhost-user-blk", move |shutdown, memory| {
            BlockBackend::new(disk, &serial, queues, shutdown, memory)
        })
    }

    fn listen<B>(
        socket: &Path,
        name: &'static str,
        backend: impl FnOnce(Arc<Shutdown>, Memory) -> B + Send + 'static,
    ) -> Result<Self, VhostUserError>
    where
        B: VhostUserBackend<Bitmap = (), Vring = VringMutex> + 'static,
    {
        let failed = |source| VhostUserError::Bind { path: socket.to_owned(), source };
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let started = || {
            let (stopped, stop) = io::pipe()?;
            let shutdown = Arc::new(Shutdown::default());
            let theirs = Arc::clone(&shutdown);
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || serve(name, backend, listener, &stopped, &theirs))?;
            Ok(Self { socket: socket.to_owned(), shutdown, stop, thread: Some(thread) })
        };
        started().map_err(|error| {
            drop(std::fs::remove_file(socket));
            VhostUserError::Start(error)
        })
    }

    /// Returns the path of the socket that the VMM connects to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns whether the device has ended: the VMM hung up, or the device was stopped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the device, whether a VMM is connected or not.
    pub fn stop(&self) {
        // Fails only when the thread, which reads this, has ended.
        drop((&self.stop).write(&[0]));
        self.shutdown.hang_up();
    }

    /// Waits until the device ends.
    ///
    /// # Errors
    /// Why it ended, unless the VMM hung up or [`VhostUserDevice::stop`] was called.
    pub fn wait(mut self) -> Result<(), VhostUserError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), VhostUserError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or(Err(VhostUserError::Panicked))
    }
}

impl Drop for VhostUserDevice {
    fn drop(&mut self) {
        self.stop();
        if let Err(error) = self.join() {
            tracing::debug!(%error, "a vhost-user device ended while it was dropped");
        }
        // The socket is gone already if a VMM had connected.
        drop(std::fs::remove_file(&self.socket));
    }
}

/// Waits for a VMM, then serves it.
fn serve<B>(
    name: &str,
    backend: impl FnOnce(Arc<Shutdown>, Memory) -> B,
    listener: UnixListener,
    stopped: &PipeReader,
    shutdown: &Arc<Shutdown>,
) -> Result<(), VhostUserError>
where
    B: VhostUserBackend<Bitmap = (), Vring = VringMutex> + 'static,
{
    if !wait_for_connection(&listener, stopped)? {
        return Ok(());
    }
    let memory = Memory::new(GuestMemoryMmap::new());
    let backend = Arc::new(backend(Arc::clone(shutdown), memory.clone()));
    let mut daemon = VhostUserDaemon::new(name.to_owned(), backend, memory)?;
    daemon.start(&mut Listener::from(listener))?;
    shutdown.connected(daemon.shutdown_handle());
    let result = daemon.wait();
    // Dropping the daemon waits for its worker, which may have a full queue left to answer.
    shutdown.disconnected();
    match result {
        // A hypervisor that ends closes the connection, perhaps within a message or with an answer unread.
        Ok(())
        | Err(DaemonError::HandleRequest(
            ProtocolError::Disconnected | ProtocolError::PartialMessage | ProtocolError::SocketBroken(_),
        )) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits for a connection. Returns false if the device is stopped first.
fn wait_for_connection(listener: &UnixListener, stopped: &PipeReader) -> Result<bool, VhostUserError> {
    loop {
        let mut waited = [PollFd::new(stopped, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut waited, None) {
            Ok(_) => return Ok(waited.first().is_some_and(|stop| stop.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(VhostUserError::Start(errno.into())),
        }
    }
}
