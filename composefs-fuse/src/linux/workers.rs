//! Threads that carry requests from `/dev/fuse` to a server, and its replies back.

use super::ring::{self, Ring};
use crate::portable::Calls;
use crate::server::{MAX_REPLY, MAX_REQUEST, Server};
use crate::wire::{InHeader, InitFlags, InitIn, InitOut, Opcode, OutHeader};
use fuser::{Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use zerocopy::{FromBytes, IntoBytes};

/// Why the kernel's requests cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Reading from or writing to the device failed, or no thread could be started.
    #[error("/dev/fuse: {0}")]
    Io(#[from] io::Error),
    /// The kernel did not begin with a handshake.
    #[error("the kernel's first FUSE message was not a handshake")]
    NoHandshake,
    /// The kernel and the server cannot agree.
    #[error("the FUSE handshake failed: {0}; Linux 5.4 or later is needed")]
    Handshake(#[source] io::Error),
    /// The mount was gone before the handshake was done.
    #[error("the mount was taken away before it could be served")]
    Gone,
}

/// What happens while a mount is served.
#[derive(Debug)]
pub enum ServeEvent {
    /// A thread has ended: because the mount is gone (`Ok`), because it panicked, or because the device failed. The
    /// error is `ECONNABORTED` if the connection was aborted through `/sys/fs/fuse/connections`, which leaves the
    /// mount.
    WorkerEnded(io::Result<()>),
    /// The process was asked to end by this signal.
    Signal(i32),
}

/// The threads that serve a mount.
///
/// They end when the mount is gone. Dropping this does not stop them: a thread that waits for the kernel ends only when
/// the mount is taken away or the process ends.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<JoinHandle<()>>,
    /// The threads alone keep the device open, so that the kernel notices when they have all ended. `fuser` does not show
    /// the device that it keeps.
    device: Option<Weak<OwnedFd>>,
}

/// What carries the kernel's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Our own loop over the device.
    #[default]
    Device,
    /// The crate `fuser`, to try what a Mac has.
    Fuser,
}

impl Workers {
    /// Does the handshake, then serves from `threads` threads, at least one. Each sends to `events` when it ends. Where the
    /// kernel takes FUSE over io_uring, there is at least one for each processor, and one more.
    ///
    /// The tree can be read as soon as this returns.
    ///
    /// # Errors
    /// The handshake failed, or no thread could be started. The mount is still there then.
    pub fn start(
        server: &Arc<Server>,
        device: OwnedFd,
        threads: usize,
        events: &Sender<ServeEvent>,
    ) -> Result<Self, DeviceError> {
        let device = Arc::new(device);
        // Before the handshake: what was agreed on there must work.
        let rings = ring::create(&device, threads);
        let rings = match handshake(server, &device, rings.is_some())? {
            true => rings.unwrap_or_default(),
            false => Vec::new(),
        };
        // What does not come over a ring is little.
        let threads = if rings.is_empty() { threads.max(1) } else { 1 };
        let workers = (0..threads).map(|number| {
            let (server, device) = (Arc::clone(server), Arc::clone(&device));
            spawn(format!("fuse-{number}"), events, move || Channel::new(&device).serve(&server))
        });
        let mut workers = workers.collect::<io::Result<Vec<_>>>()?;
        workers.extend(start_rings(server, &device, rings, events)?);
        Ok(Self { workers, device: Some(Arc::downgrade(&device)) })
    }

    /// Does the same through the portable transport, the crate `fuser`, as on a Mac. It has one thread more, which waits for
    /// the others and is the only one that sends to `events`.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub(super) fn start_portable(
        server: &Arc<Server>,
        device: OwnedFd,
        threads: usize,
        events: &Sender<ServeEvent>,
    ) -> Result<Self, DeviceError> {
        let mut config = fuser::Config::default();
        config.n_threads = Some(threads.max(1));
        // The kernel decides who gets in.
        let session = Session::from_fd(Calls::new(server), device, SessionACL::All, config);
        let session = session.map_err(DeviceError::Handshake)?;
        let worker = spawn("fuser".to_owned(), events, move || session.run())?;
        Ok(Self { workers: vec![worker], device: None })
    }

    /// Returns how many threads serve.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Returns whether nothing answers the kernel any more: all threads have ended, or the kernel has given up the
    /// connection, and they are about to.
    ///
    /// A process that has been refused something because of that ends later than this becomes true.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let given_up = |device: &Weak<OwnedFd>| device.upgrade().is_none_or(|device| is_given_up(&device));
        self.device.as_ref().is_some_and(given_up) || self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Waits until all threads have ended, which they do when the mount is gone.
    pub fn join(self) {
        for worker in self.workers {
            // A thread that panicked has reported it, and left nothing to clean up.
            drop(worker.join());
        }
    }
}

/// Starts a thread that reports its end.
fn spawn(
    name: String,
    events: &Sender<ServeEvent>,
    serve: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let events = events.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        let mut notice = ExitNotice::new(events);
        notice.outcome = serve();
    })
}

/// Starts a thread for each ring, and returns when the kernel has them all. Until then it holds back all requests.
fn start_rings(
    server: &Arc<Server>,
    device: &Arc<OwnedFd>,
    rings: Vec<Ring>,
    events: &Sender<ServeEvent>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (registered, outcomes) = channel();
    let workers = rings.into_iter().enumerate().map(|(number, mut ring)| {
        let (server, device, registered) = (Arc::clone(server), Arc::clone(device), registered.clone());
        spawn(format!("fuse-ring-{number}"), events, move || {
            let outcome = ring.register();
            let is_registered = outcome.is_ok();
            drop(registered.send(outcome));
            drop(registered);
            if is_registered {
                ring.serve(&server)?;
            }
            // The device says how the connection has ended.
            Channel::new(&device).serve(&server)
        })
    });
    let workers = workers.collect::<io::Result<Vec<_>>>()?;
    drop(registered);
    outcomes.into_iter().collect::<io::Result<()>>()?;
    Ok(workers)
}

/// Returns whether the kernel has given up the connection of a device (`fuse_dev_poll` of `fs/fuse/dev.c`), which it does
/// before it refuses the requests that wait.
fn is_given_up(device: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(device, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// Reports the end of a thread when it is dropped, even if the thread panicked: otherwise the wait for its mount would
/// never end.
struct ExitNotice {
    events: Sender<ServeEvent>,
    outcome: io::Result<()>,
}

impl ExitNotice {
    fn new(events: Sender<ServeEvent>) -> Self {
        Self { events, outcome: Err(io::Error::other("a serving thread panicked")) }
    }
}

impl Drop for ExitNotice {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        // Fails if nothing waits for the mount any more, and then it does not matter.
        drop(self.events.send(ServeEvent::WorkerEnded(outcome)));
    }
}

/// Answers requests until `INIT` is done. Returns whether requests come over rings, which is agreed on if `has_rings` and if
/// the kernel offers it.
fn handshake(server: &Server, device: &OwnedFd, has_rings: bool) -> Result<bool, DeviceError> {
    let mut channel = Channel::new(device);
    // The kernel may ask twice: the second time in the version that the first answer named.
    for _ in 0..2 {
        let Some(length) = channel.receive()? else { return Err(DeviceError::Gone) };
        let request = channel.request.get(..length).unwrap_or_default();
        let header = InHeader::read_from_prefix(request).map(|(header, _)| header);
        if header.ok().and_then(|header| Opcode::from_raw(header.opcode)) != Some(Opcode::Init) {
            return Err(DeviceError::NoHandshake);
        }
        let is_offered = has_rings && offers_rings(request);
        let mut takes_rings = false;
        let sent = channel.answer_changed(server, length, |reply| takes_rings = is_offered && accept_rings(reply))?;
        let Ok((answer, rest)) = OutHeader::read_from_prefix(channel.reply.get(..sent).unwrap_or_default()) else {
            return Err(DeviceError::NoHandshake);
        };
        if answer.error != 0 {
            return Err(DeviceError::Handshake(io::Error::from_raw_os_error(-answer.error)));
        }
        // An answer without flags only names our version, and the kernel asks again.
        match InitOut::read_from_prefix(rest) {
            Ok((InitOut { flags: 0, .. }, _)) => {}
            Ok(_) => return Ok(takes_rings),
            Err(_) => return Err(DeviceError::NoHandshake),
        }
    }
    Err(DeviceError::NoHandshake)
}

/// Whether an `INIT` offers FUSE over io_uring.
fn offers_rings(request: &[u8]) -> bool {
    let after = request.get(InHeader::SIZE..).unwrap_or_default();
    let Ok((offer, rest)) = InitIn::read_from_prefix(after) else { return false };
    let Ok((more, _)) = u32::read_from_prefix(rest) else { return false };
    InitFlags(offer.flags).contains(InitFlags::INIT_EXT) && more & InitFlags::OVER_IO_URING != 0
}

/// Adds to the answer to `INIT` that requests come over rings. Returns whether it does, which an error cannot.
fn accept_rings(reply: &mut [u8]) -> bool {
    let body = reply.get_mut(OutHeader::SIZE..).unwrap_or_default();
    let Ok((mut answer, _)) = InitOut::read_from_prefix(body) else { return false };
    // Without flags it only names our version.
    if answer.flags == 0 {
        return false;
    }
    answer.flags |= InitFlags::INIT_EXT.0;
    answer.flags2 |= InitFlags::OVER_IO_URING;
    answer.write_to_prefix(body).is_ok()
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

    /// Returns the length of the next request, or nothing if the mount is gone.
    fn receive(&mut self) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(self.device, &mut *self.request) {
                Ok(length) => return Ok(Some(length)),
                // ENOENT: the caller gave up while the request was passed on (fs/fuse/dev.c).
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Answers the request of `length` bytes in the buffer. Returns the length of the reply.
    fn answer(&mut self, server: &Server, length: usize) -> io::Result<usize> {
        self.answer_changed(server, length, |_| ())
    }

    /// The same, with a change to the reply.
    fn answer_changed(&mut self, server: &Server, length: usize, change: impl FnOnce(&mut [u8])) -> io::Result<usize> {
        let sent = server.handle(self.request.get(..length).unwrap_or_default(), &mut self.reply);
        change(self.reply.get_mut(..sent).unwrap_or_default());
        let Some(reply) = self.reply.get(..sent).filter(|reply| !reply.is_empty()) else { return Ok(0) };
        loop {
            match rustix::io::write(self.device, reply) {
                // ENOENT: the caller gave up in the meantime, or this answers an INTERRUPT whose request is done.
                Ok(_) | Err(Errno::NOENT) => return Ok(sent),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The next read tells what happened to the mount.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(sent),
                Err(errno) => {
                    // One reply that the kernel refuses must not end the mount.
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
    fn a_thread_that_panics_reports_that_it_has_ended() {
        let (sender, events) = channel();
        let thread = std::thread::spawn(move || {
            let _notice = ExitNotice::new(sender);
            panic!("outside of what the server guards");
        });
        assert!(thread.join().is_err());
        assert!(matches!(events.recv(), Ok(ServeEvent::WorkerEnded(Err(_)))));
    }
}
