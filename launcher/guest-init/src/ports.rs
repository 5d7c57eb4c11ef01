//! Connects the clients of published ports, which the host accepts, to services of this guest.
//!
//! One thread moves the bytes of all connections. A service sees connections from the guest's own address, which is the
//! network card's, or 127.0.1.1 in a guest without one. So a service that listens on every address is reached, and one
//! that listens only on 127.0.0.1 is not: as in a container.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use guest_protocol::{Channel, MAX_CHUNK, Message, Protocol, Relay, Service, cost};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::Guest;

/// The address of services in a guest without a network card: the one that its name resolves to.
pub(crate) const WITHOUT_CARD: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// The host's messages about connections, and the thread that handles them.
#[derive(Debug)]
pub(crate) struct Ports {
    inbox: Mutex<Vec<(u32, Message)>>,
    /// Becomes readable when the inbox is not empty.
    wake: OwnedFd,
    /// The address of the services.
    address: OnceLock<Ipv4Addr>,
    running: OnceLock<()>,
}

impl Ports {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inbox: Mutex::default(), wake, address: OnceLock::new(), running: OnceLock::new() })
    }

    /// Sets the address of the services.
    pub(crate) fn set_address(&self, address: Ipv4Addr) {
        let _ = self.address.set(address);
    }

    /// Passes on a message about a connection.
    pub(crate) fn deliver(&self, guest: &Arc<Guest>, stream: u32, message: Message) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push((stream, message));
        let _ = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
        self.running.get_or_init(|| {
            let guest = Arc::clone(guest);
            std::thread::spawn(move || Forwarder { guest: &guest, connections: BTreeMap::new() }.run());
        });
    }
}

#[derive(Debug)]
enum Connection {
    /// To a TCP service; `true` once it is connected.
    Tcp(Relay, bool),
    /// To a UDP service, and the room that is left for its answers.
    Udp(UdpSocket, u32),
}

impl Connection {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(relay, _) => relay.socket().as_fd(),
            Self::Udp(socket, _) => socket.as_fd(),
        }
    }

    /// Returns what to wait for, or `None` if nothing can happen to the socket.
    fn interest(&self) -> Option<PollFlags> {
        match self {
            Self::Tcp(_, false) => Some(PollFlags::OUT),
            Self::Tcp(relay, true) if relay.is_idle() => None,
            Self::Tcp(relay, true) => Some(relay.interest().flags()),
            Self::Udp(..) => Some(PollFlags::IN),
        }
    }
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    GoesOn,
    Ended { in_order: bool },
}

struct Forwarder<'a> {
    guest: &'a Guest,
    connections: BTreeMap<u32, Connection>,
}

impl Forwarder<'_> {
    fn run(mut self) {
        let mut buffer = vec![0; MAX_CHUNK];
        loop {
            self.wait_and_move(&mut buffer);
            let ports = &self.guest.ports;
            let _ = rustix::io::read(&ports.wake, &mut [0; 8]);
            for (stream, message) in std::mem::take(&mut *ports.inbox.lock().unwrap_or_else(PoisonError::into_inner)) {
                self.obey(stream, message);
            }
        }
    }

    /// Waits until something happens to a socket or a message arrives, and moves what the sockets have and take.
    fn wait_and_move(&mut self, buffer: &mut [u8]) {
        let watched: Vec<(u32, PollFlags)> = self
            .connections
            .iter()
            .filter_map(|(&stream, connection)| Some((stream, connection.interest()?)))
            .collect();
        let sockets =
            watched.iter().map(|(stream, flags)| PollFd::from_borrowed_fd(self.connections[stream].fd(), *flags));
        let wake = PollFd::from_borrowed_fd(self.guest.ports.wake.as_fd(), PollFlags::IN);
        let mut fds: Vec<PollFd<'_>> = [wake].into_iter().chain(sockets).collect();
        if poll(&mut fds, None).is_err() {
            return;
        }
        let happened: Vec<PollFlags> = fds[1..].iter().map(PollFd::revents).collect();
        for ((stream, _), flags) in watched.into_iter().zip(happened).filter(|(_, flags)| !flags.is_empty()) {
            self.attend(stream, flags, buffer);
        }
    }

    fn attend(&mut self, stream: u32, flags: PollFlags, buffer: &mut [u8]) {
        let guest = self.guest;
        let Some(connection) = self.connections.get_mut(&stream) else { return };
        let state = match connection {
            Connection::Tcp(relay, connected) => {
                if !*connected {
                    *connected = matches!(sockopt::socket_error(relay.socket()), Ok(Ok(())));
                }
                match *connected {
                    true => move_bytes(guest, stream, relay, flags.contains(PollFlags::ERR), buffer),
                    false => State::Ended { in_order: false },
                }
            }
            Connection::Udp(socket, room) => {
                // An error is that of an earlier datagram, which nobody has received.
                if let Ok(length @ 1..) = socket.recv(buffer)
                    && cost(length) <= *room
                {
                    *room -= cost(length);
                    guest.send(stream, Message::Stdout(buffer[..length].to_vec()));
                }
                State::GoesOn
            }
        };
        self.settle(stream, state);
    }

    fn settle(&mut self, stream: u32, state: State) {
        if let State::Ended { in_order } = state
            && let Some(connection) = self.connections.remove(&stream)
        {
            if let Connection::Tcp(relay, _) = connection
                && !in_order
            {
                relay.reset();
            }
            self.guest.send(stream, Message::Disconnected { in_order });
        }
    }

    fn obey(&mut self, stream: u32, message: Message) {
        let state = match (message, self.connections.get_mut(&stream)) {
            (Message::Connect(service), None) => match self.connect(service) {
                Ok(connection) => {
                    self.connections.insert(stream, connection);
                    State::GoesOn
                }
                Err(error) => {
                    eprintln!("lamina: port {}: {error}", service.port);
                    self.guest.send(stream, Message::Disconnected { in_order: false });
                    State::GoesOn
                }
            },
            (Message::Stdin(bytes), Some(Connection::Tcp(relay, connected))) => {
                relay.take(bytes);
                if *connected { write(self.guest, stream, relay) } else { State::GoesOn }
            }
            (Message::Stdin(bytes), Some(Connection::Udp(socket, _))) => {
                let _ = socket.send(&bytes);
                self.guest.send(stream, Message::Credit(Channel::Stdin, cost(bytes.len())));
                State::GoesOn
            }
            (Message::Credit(_, bytes), Some(Connection::Tcp(relay, _))) => {
                relay.credit(bytes);
                State::GoesOn
            }
            (Message::Credit(_, bytes), Some(Connection::Udp(_, room))) => {
                *room = room.saturating_add(bytes).min(Protocol::Udp.window());
                State::GoesOn
            }
            (Message::Reset, Some(_)) => State::Ended { in_order: false },
            // It crossed the last message of its connection.
            _ => State::GoesOn,
        };
        self.settle(stream, state);
    }

    fn connect(&self, service: Service) -> io::Result<Connection> {
        let own = *self.guest.ports.address.get().unwrap_or(&WITHOUT_CARD);
        // On the loopback, a service on all addresses answers a datagram from 127.0.0.1, wherever it was sent, and a
        // connected socket takes answers from its peer only.
        let is_local_udp = service.protocol == Protocol::Udp && own.is_loopback();
        let address = SocketAddrV4::new(if is_local_udp { Ipv4Addr::LOCALHOST } else { own }, service.port);
        let kind = match service.protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(match service.protocol {
            Protocol::Tcp => Connection::Tcp(Relay::new(TcpStream::from(socket))?, false),
            Protocol::Udp => Connection::Udp(UdpSocket::from(socket), Protocol::Udp.window()),
        })
    }
}

/// Moves what a socket has and takes. What had arrived before the service reset the connection is moved first.
fn move_bytes(guest: &Guest, stream: u32, relay: &mut Relay, is_reset: bool, buffer: &mut [u8]) -> State {
    match relay.read(buffer) {
        Ok(Some(chunk)) => guest.send(stream, Message::Stdout(chunk)),
        Ok(None) if !is_reset => {}
        _ => return State::Ended { in_order: false },
    }
    write(guest, stream, relay)
}

fn write(guest: &Guest, stream: u32, relay: &mut Relay) -> State {
    match relay.write() {
        Ok(0) => {}
        Ok(bytes) => guest.send(stream, Message::Credit(Channel::Stdin, bytes)),
        Err(_) => return State::Ended { in_order: false },
    }
    if relay.is_over() { State::Ended { in_order: true } } else { State::GoesOn }
}
