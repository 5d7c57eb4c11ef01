//! The loop that moves the bytes of all connections.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use guest_protocol::MAX_CHUNK;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::guest::Guest;
use super::tcp::Connections;
use super::udp::Flows;
use super::{Listeners, Shared};
use crate::machine::session::Control;

/// How often to look whether the guest has read what waits.
const LOOK: Duration = Duration::from_millis(5);

/// How often to look for what has been idle for too long, and for room for more files.
const TICK: Duration = Duration::from_secs(1);

/// Something that can become readable or writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Wake,
    /// A TCP port, by its position.
    Port(usize),
    /// A UDP port, by its position.
    Datagrams(usize),
    /// A TCP connection, by its stream.
    Connection(u32),
}

pub(super) struct Forwarder {
    shared: Arc<Shared>,
    guest: Guest,
    tcp: Connections,
    udp: Flows,
}

impl Forwarder {
    pub(super) fn new(listeners: Listeners, control: Control, shared: Arc<Shared>) -> Self {
        let guest = Guest::new(control);
        Self { shared, guest, tcp: Connections::new(listeners.tcp), udp: Flows::new(listeners.udp) }
    }

    pub(super) fn run(mut self) {
        let mut buffer = vec![0; MAX_CHUNK];
        while !self.shared.over.load(Ordering::Relaxed) {
            self.wait_and_move(&mut buffer);
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
            for (stream, message) in
                std::mem::take(&mut *self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner))
            {
                if !self.tcp.hear(stream, &message, &self.guest) {
                    self.udp.hear(stream, message, &self.guest);
                }
            }
            self.udp.forget_idle(Instant::now(), &self.guest);
        }
    }

    /// Waits until something happens to a socket or a message arrives, and moves what the sockets have and take.
    fn wait_and_move(&mut self, buffer: &mut [u8]) {
        let slow = self.guest.is_slow();
        let sources = self.sources(slow);
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(source, flags)| PollFd::from_borrowed_fd(self.fd(*source), *flags)).collect();
        let most = if slow { LOOK } else { TICK };
        let waited = if slow || self.udp.has_flows() || self.tcp.is_full() {
            poll(&mut fds, Timespec::try_from(most).ok().as_ref())
        } else {
            poll(&mut fds, None)
        };
        let happened: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if waited.is_err() {
            return;
        }
        for ((source, _), flags) in sources.into_iter().zip(happened).filter(|(_, flags)| !flags.is_empty()) {
            match source {
                Source::Wake => {}
                Source::Port(position) => self.tcp.accept(position, &mut self.guest),
                Source::Datagrams(position) => self.udp.receive(position, buffer, &mut self.guest),
                Source::Connection(stream) => self.tcp.attend(stream, flags, buffer, &self.guest),
            }
        }
    }

    /// Returns what to wait for. Nothing is read from clients while the guest is slow.
    fn sources(&self, slow: bool) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![(Source::Wake, PollFlags::IN)];
        if !slow {
            if !self.tcp.is_full() {
                sources.extend((0..self.tcp.ports.len()).map(|position| (Source::Port(position), PollFlags::IN)));
            }
            sources.extend((0..self.udp.ports.len()).map(|position| (Source::Datagrams(position), PollFlags::IN)));
        }
        let connections = self.tcp.interests(slow);
        sources.extend(connections.map(|(stream, flags)| (Source::Connection(stream), flags)));
        sources
    }

    fn fd(&self, source: Source) -> BorrowedFd<'_> {
        match source {
            Source::Wake => self.shared.wake.as_fd(),
            Source::Port(position) => self.tcp.ports[position].0.as_fd(),
            Source::Datagrams(position) => self.udp.ports[position].0.as_fd(),
            Source::Connection(stream) => self.tcp.fd(stream).unwrap_or_else(|| self.shared.wake.as_fd()),
        }
    }
}
