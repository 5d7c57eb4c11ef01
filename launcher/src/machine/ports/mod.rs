//! Published ports: this process listens on the host, and the guest's init connects to the services over the control
//! channel. So they need no network, and whatever carries the guest's packets needs no way into the guest.
//!
//! One thread moves the bytes of all connections. It accepts clients from when the command runs; before that they wait.
//! A machine has at most [`MOST_CONNECTIONS`] connections at a time; further clients wait until one ends. What a
//! connection holds is bounded by the windows of its stream.

mod forwarder;
mod guest;
mod tcp;
mod udp;

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use guest_protocol::Message;
use rustix::event::{EventfdFlags, eventfd};

use self::forwarder::Forwarder;
use super::session::Control;
use crate::failure::{About, Failure};
use crate::host::network::Publish;

/// The most TCP connections of a machine at a time.
pub(super) const MOST_CONNECTIONS: usize = 512;

/// The number of the first stream of a connection. Processes have lower numbers.
pub(super) const FIRST_STREAM: u32 = 1 << 31;

/// Ports of this host that are listened on.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// With the guest's port.
    tcp: Vec<(TcpListener, u16)>,
    udp: Vec<(UdpSocket, u16)>,
}

impl Listeners {
    /// Starts to listen.
    ///
    /// # Errors
    /// Names the first port that cannot be listened on: it is in use, perhaps by another port of the list, or this user
    /// may not use it, or the host has no such address.
    pub(crate) fn bind(publish: &[Publish]) -> Result<Self, Failure> {
        let mut listeners = Self::default();
        for port in publish {
            listeners.add(port).map_err(|error| {
                let remedy = match error.kind() {
                    ErrorKind::AddrInUse => "publish another port of this host, or end the program that listens there",
                    ErrorKind::PermissionDenied => {
                        "publish a port from /proc/sys/net/ipv4/ip_unprivileged_port_start on"
                    }
                    _ => "publish it at an address that this host has",
                };
                Failure::new(format_args!("--publish {port}"), error).with_hint(remedy)
            })?;
        }
        Ok(listeners)
    }

    fn add(&mut self, port: &Publish) -> std::io::Result<()> {
        let address = port.on_host();
        if port.udp {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            self.udp.push((socket, port.guest));
        } else {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            self.tcp.push((listener, port.guest));
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }
}

/// The thread that forwards. Dropping this ends it, with all connections, and closes the ports.
#[derive(Debug)]
pub(super) struct Ports {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the supervisor share.
#[derive(Debug)]
struct Shared {
    /// What the guest has said about connections: as much as their windows allow.
    inbox: Mutex<Vec<(u32, Message)>>,
    /// Becomes readable when the inbox is not empty or the thread is to end.
    wake: OwnedFd,
    over: AtomicBool,
}

impl Shared {
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
    }
}

impl Ports {
    /// Starts to accept clients. Returns `None` if no port is published.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub(super) fn open(listeners: Listeners, control: Control) -> Result<Option<Self>, Failure> {
        if listeners.is_empty() {
            return Ok(None);
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).about("eventfd")?;
        let shared = Arc::new(Shared { inbox: Mutex::default(), wake, over: AtomicBool::new(false) });
        let forwarder = Forwarder::new(listeners, control, Arc::clone(&shared));
        let thread = Some(std::thread::spawn(move || forwarder.run()));
        Ok(Some(Self { shared, thread }))
    }

    /// Passes on what the guest says about a connection.
    pub(super) fn deliver(&self, stream: u32, message: Message) {
        self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner).push((stream, message));
        self.shared.wake();
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It never waits for anything but its sockets.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
