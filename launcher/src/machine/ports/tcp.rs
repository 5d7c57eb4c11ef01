//! The TCP connections of published ports.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};

use guest_protocol::{Channel, Message, Protocol, Relay, Service};
use rustix::event::PollFlags;

use super::MOST_CONNECTIONS;
use super::guest::Guest;

/// The ports that are listened on, and their connections.
#[derive(Debug)]
pub(super) struct Connections {
    /// With the guest's port.
    pub(super) ports: Vec<(TcpListener, u16)>,
    open: BTreeMap<u32, Connection>,
    /// A client could not be accepted, probably because this process may have no more files open. Tried again when a
    /// connection ends, or after a while.
    starved: bool,
}

#[derive(Debug)]
struct Connection {
    relay: Relay,
    /// The guest has ended it, in order or by a reset. What it sent before is still written.
    last: Option<bool>,
}

impl Connections {
    pub(super) const fn new(ports: Vec<(TcpListener, u16)>) -> Self {
        Self { ports, open: BTreeMap::new(), starved: false }
    }

    /// Returns whether no more clients can be accepted for now.
    pub(super) fn is_full(&self) -> bool {
        self.starved || self.open.len() >= MOST_CONNECTIONS
    }

    pub(super) fn fd(&self, stream: u32) -> Option<BorrowedFd<'_>> {
        self.open.get(&stream).map(|connection| connection.relay.socket().as_fd())
    }

    /// Returns what to wait for; nothing is read while the guest is `slow`.
    pub(super) fn interests(&self, slow: bool) -> impl Iterator<Item = (u32, PollFlags)> {
        self.open.iter().filter(|(_, connection)| !connection.relay.is_idle()).map(move |(&stream, connection)| {
            let mut interest = connection.relay.interest();
            interest.read &= !slow && connection.last.is_none();
            (stream, interest.flags())
        })
    }

    /// Accepts the clients that wait at a port.
    pub(super) fn accept(&mut self, position: usize, guest: &mut Guest) {
        while !self.is_full() {
            let (listener, port) = &self.ports[position];
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!("a published port: {error}");
                    self.starved = true;
                    return;
                }
            };
            let service = Service { port: *port, protocol: Protocol::Tcp };
            if let (Ok(relay), Some(stream)) = (Relay::new(socket), guest.new_stream())
                && guest.send(stream, Message::Connect(service))
            {
                self.open.insert(stream, Connection { relay, last: None });
            }
        }
    }

    /// Moves what a client has sent and takes.
    pub(super) fn attend(&mut self, stream: u32, flags: PollFlags, buffer: &mut [u8], guest: &Guest) {
        self.starved = false;
        let Some(connection) = self.open.get_mut(&stream) else { return };
        let relay = &mut connection.relay;
        let read = match connection.last {
            None => relay.read(buffer),
            Some(_) => Ok(None),
        };
        let is_reset = match read {
            Ok(Some(chunk)) => !guest.send(stream, Message::Stdin(chunk)),
            Ok(None) => flags.contains(PollFlags::ERR),
            Err(_) => true,
        };
        if is_reset || !write(stream, relay, guest) {
            self.drop_client(stream, guest);
            return;
        }
        self.settle(stream);
    }

    /// Handles what the guest says. Returns whether it is about one of these connections.
    pub(super) fn hear(&mut self, stream: u32, message: &Message, guest: &Guest) -> bool {
        self.starved = false;
        let Some(connection) = self.open.get_mut(&stream) else { return false };
        match message {
            Message::Stdout(chunk) => {
                connection.relay.take(chunk.clone());
                if !write(stream, &mut connection.relay, guest) {
                    self.drop_client(stream, guest);
                    return true;
                }
            }
            Message::Credit(Channel::Stdin, bytes) => connection.relay.credit(*bytes),
            Message::Disconnected { in_order } => connection.last = Some(*in_order),
            _ => {}
        }
        self.settle(stream);
        true
    }

    /// The client is gone.
    fn drop_client(&mut self, stream: u32, guest: &Guest) {
        if let Some(connection) = self.open.remove(&stream) {
            connection.relay.reset();
            guest.send(stream, Message::Reset);
        }
    }

    /// Ends a connection once the guest has ended it and everything that it sent before is written.
    fn settle(&mut self, stream: u32) {
        let done = self.open.get(&stream).and_then(|connection| {
            let last = connection.last?;
            (!connection.relay.has_output()).then_some(last)
        });
        if let Some(in_order) = done
            && let Some(connection) = self.open.remove(&stream)
            && !in_order
        {
            connection.relay.reset();
        }
    }
}

/// Writes what a client takes. Returns `false` if the client is gone.
fn write(stream: u32, relay: &mut Relay, guest: &Guest) -> bool {
    match relay.write() {
        Ok(0) => true,
        Ok(bytes) => {
            guest.send(stream, Message::Credit(Channel::Stdout, bytes));
            true
        }
        Err(_) => false,
    }
}
