//! Serves a view that another process mounts: it sends the device of its mount over a socket.
//!
//! A mount that is made in a user namespace shows the owners of that namespace, so a container's view is mounted there and
//! not here. Its server needs no namespace, only the descriptor.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use composefs_fuse::Server;
use composefs_fuse::linux::{ServeEvent, Workers};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::failure::{About, Failure};

/// Threads that answer a container's kernel.
const THREADS: usize = 4;

/// How long the mount may take to go away after the last process that sees it.
const GONE: Duration = Duration::from_secs(5);

/// A server that waits for the device of one mount, and serves it.
#[derive(Debug)]
pub(crate) struct FuseSocket {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    /// No device has arrived.
    Waiting,
    Serving(Workers),
    /// The mount has gone away.
    Gone,
    /// Nothing serves the mount, although it may be there.
    Failed,
}

/// Is told when nothing serves a mount although it may be there.
pub(crate) type Told = Box<dyn FnOnce() + Send>;

impl FuseSocket {
    /// Waits at `socket` in another thread, which ends with this process if no device ever arrives. Calls `told` if the
    /// service ends before the mount does.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub(crate) fn listen(server: Arc<Server>, socket: &Path, told: Told) -> Result<Self, Failure> {
        let listener = UnixListener::bind(socket).about(socket.display())?;
        let state = Arc::new(Mutex::new(State::Waiting));
        let known = Arc::clone(&state);
        std::thread::spawn(move || {
            let enter = |next| *known.lock().unwrap_or_else(PoisonError::into_inner) = next;
            match listener.accept().and_then(|(stream, _)| serve(&server, &stream)) {
                Ok((workers, events)) => {
                    enter(State::Serving(workers));
                    let failed = |event| matches!(event, ServeEvent::WorkerEnded(Err(_)));
                    // The channel closes with the last thread that serves.
                    if !events.iter().fold(false, |any, event| any | failed(event)) {
                        return enter(State::Gone);
                    }
                }
                Err(error) => tracing::debug!("the root cannot be served: {error}"),
            }
            enter(State::Failed);
            told();
        });
        Ok(Self { state })
    }

    /// Returns whether the service has ended before the mount.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.state(), State::Failed)
    }

    /// Returns whether a process that still has the mount cannot use it. This is known before such a process notices.
    pub(crate) fn is_useless(&self) -> bool {
        match &*self.state() {
            State::Waiting => false,
            State::Serving(workers) => workers.has_ended(),
            State::Gone | State::Failed => true,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the mount is gone, which it is soon after the last process that saw it has ended.
    pub(crate) fn await_end(&self) {
        let start = Instant::now();
        while !matches!(*self.state(), State::Waiting) && !self.is_useless() {
            if start.elapsed() > GONE {
                tracing::warn!("the container has ended, but its root is still mounted");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn serve(server: &Arc<Server>, stream: &UnixStream) -> io::Result<(Workers, Receiver<ServeEvent>)> {
    let device = receive(stream)?;
    let (sender, events) = channel();
    let workers = Workers::start(server, device, THREADS, &sender).map_err(io::Error::other)?;
    Ok((workers, events))
}

/// Receives one descriptor.
fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    while let Err(error) = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    received.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the container ended before it was mounted"))
}
