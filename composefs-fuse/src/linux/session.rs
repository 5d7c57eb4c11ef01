//! Threads that carry requests from `/dev/fuse` to a server, and its replies back.

use crate::server::{MAX_REPLY, MAX_REQUEST, Server};
use crate::wire::{InHeader, InitOut, Opcode, OutHeader};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use zerocopy::FromBytes;

/// Why a mount cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Reading from or writing to the device failed.
    #[error("/dev/fuse: {0}")]
    Device(#[from] io::Error),
    /// The kernel did not open with a handshake.
    #[error("the kernel's first FUSE message was not a handshake")]
    NoHandshake,
    /// The kernel and the server cannot agree.
    #[error("the FUSE handshake failed: {0}; Linux 5.4 or later is needed")]
    Handshake(io::Error),
    /// The mount was gone before the handshake was done.
    #[error("the mount was taken away before it could be served")]
    Gone,
}

/// What a session tells whoever waits for it.
#[derive(Debug)]
pub enum SessionEvent {
    /// A thread has ended: because the mount is gone (`Ok`), because it panicked, or because the device failed; with
    /// `ECONNABORTED` where the connection was aborted through `/sys/fs/fuse/connections`, which leaves the mount.
    WorkerEnded(io::Result<()>),
    /// The process was asked to end by this signal.
    Signal(i32),
}

/// A mount being served by threads.
///
/// The threads end when the mount is gone. Dropping the session does not stop them: a thread that waits for the
/// kernel can only be freed by taking the mount away, or by the end of the process.
#[derive(Debug)]
pub struct Session {
    workers: Vec<JoinHandle<()>>,
}

impl Session {
    /// Does the handshake, then serves from `threads` threads, at least one. Each tells `events` when it ends.
    ///
    /// When this returns, the tree can be read.
    ///
    /// # Errors
    /// If the handshake fails or no thread can be started; the mount is still there then.
    pub fn start(
        server: &Arc<Server>,
        device: OwnedFd,
        threads: usize,
        events: &Sender<SessionEvent>,
    ) -> Result<Self, SessionError> {
        let device = Arc::new(device);
        handshake(server, &device)?;
        let workers = (0..threads.max(1)).map(|number| {
            let (server, device, events) = (Arc::clone(server), Arc::clone(&device), events.clone());
            std::thread::Builder::new().name(format!("fuse-{number}")).spawn(move || {
                let mut farewell = Farewell::new(events);
                farewell.outcome = Channel::new(&device).serve(&server);
            })
        });
        Ok(Self { workers: workers.collect::<io::Result<_>>()? })
    }

    /// How many threads serve.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Whether all threads have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Waits until all threads have ended, which they do when the mount is gone.
    pub fn join(self) {
        for worker in self.workers {
            // A worker that panicked has said so, and there is nothing left of it to clear.
            drop(worker.join());
        }
    }
}

/// Says that a thread has ended when it is dropped: also where it panicked, or its mount would be waited for without end.
struct Farewell {
    events: Sender<SessionEvent>,
    outcome: io::Result<()>,
}

impl Farewell {
    fn new(events: Sender<SessionEvent>) -> Self {
        Self { events, outcome: Err(io::Error::other("a serving thread panicked")) }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        // Nobody listens any more where the session was abandoned; then nobody need know.
        drop(self.events.send(SessionEvent::WorkerEnded(outcome)));
    }
}

/// Answers requests until `INIT` is done.
fn handshake(server: &Server, device: &OwnedFd) -> Result<(), SessionError> {
    let mut channel = Channel::new(device);
    // The kernel may ask twice: the second time in the version that the first answer named.
    for _ in 0..2 {
        let Some(length) = channel.receive()? else { return Err(SessionError::Gone) };
        let request = channel.request.get(..length).unwrap_or_default();
        let header = InHeader::read_from_prefix(request).map(|(header, _)| header);
        if header.ok().and_then(|header| Opcode::from_raw(header.opcode)) != Some(Opcode::Init) {
            return Err(SessionError::NoHandshake);
        }
        let sent = channel.answer(server, length)?;
        let Ok((answer, rest)) = OutHeader::read_from_prefix(channel.reply.get(..sent).unwrap_or_default()) else {
            return Err(SessionError::NoHandshake);
        };
        if answer.error != 0 {
            return Err(SessionError::Handshake(io::Error::from_raw_os_error(-answer.error)));
        }
        // An answer that asks for nothing names our version only, and the kernel asks again.
        match InitOut::read_from_prefix(rest) {
            Ok((InitOut { flags: 0, .. }, _)) => {}
            Ok(_) => return Ok(()),
            Err(_) => return Err(SessionError::NoHandshake),
        }
    }
    Err(SessionError::NoHandshake)
}

/// One thread's buffers between the device and the server.
struct Channel<'d> {
    device: &'d OwnedFd,
    request: Box<[u8]>,
    reply: Box<[u8]>,
}

impl<'d> Channel<'d> {
    fn new(device: &'d OwnedFd) -> Self {
        Self { device, request: vec![0; MAX_REQUEST].into(), reply: vec![0; MAX_REPLY].into() }
    }

    /// Serves until the mount is gone.
    fn serve(&mut self, server: &Server) -> io::Result<()> {
        while let Some(length) = self.receive()? {
            self.answer(server, length)?;
        }
        Ok(())
    }

    /// The length of the next request, or nothing when the mount is gone.
    fn receive(&mut self) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(self.device, &mut *self.request) {
                Ok(length) => return Ok(Some(length)),
                // ENOENT: the asker gave up while the request was being handed over (fs/fuse/dev.c).
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Answers the request of `length` bytes in the buffer. Returns the length of the reply.
    fn answer(&mut self, server: &Server, length: usize) -> io::Result<usize> {
        let sent = server.handle(self.request.get(..length).unwrap_or_default(), &mut self.reply);
        let Some(reply) = self.reply.get(..sent).filter(|reply| !reply.is_empty()) else { return Ok(0) };
        loop {
            match rustix::io::write(self.device, reply) {
                // ENOENT: the asker gave up meanwhile, or an INTERRUPT was answered whose request is done.
                Ok(_) | Err(Errno::NOENT) => return Ok(sent),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The next read says what has become of the mount.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(sent),
                Err(errno) => {
                    // One reply that the kernel finds fault with must not cost the mount.
                    tracing::error!(%errno, sent, "the kernel refused a reply");
                    return Ok(sent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_says_that_it_has_ended() {
        let (sender, events) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _farewell = Farewell::new(sender);
            panic!("outside of what the server guards");
        });
        assert!(thread.join().is_err());
        assert!(matches!(events.recv(), Ok(SessionEvent::WorkerEnded(Err(_)))));
    }
}
