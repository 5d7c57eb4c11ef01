//! The UDP flows of published ports: a flow is what one client sends to one port, and what comes back.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use guest_protocol::{Channel, Message, Protocol, Service, cost};

use super::guest::Guest;

/// The most flows of a machine at a time. A new one replaces the one that has been idle for longest.
const MOST_FLOWS: usize = 256;

/// How long a flow stays open without a datagram, as with docker.
const IDLE: Duration = Duration::from_secs(90);

/// How many datagrams are taken from a port before other sockets have their turn.
const AT_ONCE: usize = 32;

/// The ports that are listened on, and their flows.
#[derive(Debug)]
pub(super) struct Flows {
    /// With the guest's port.
    pub(super) ports: Vec<(UdpSocket, u16)>,
    open: BTreeMap<u32, Flow>,
    of_clients: HashMap<(usize, SocketAddr), u32>,
}

#[derive(Debug)]
struct Flow {
    port: usize,
    client: SocketAddr,
    used: Instant,
}

impl Flows {
    pub(super) fn new(ports: Vec<(UdpSocket, u16)>) -> Self {
        Self { ports, open: BTreeMap::new(), of_clients: HashMap::new() }
    }

    pub(super) fn has_flows(&self) -> bool {
        !self.open.is_empty()
    }

    /// Passes on the datagrams that wait at a port. One for which there is no room is lost.
    pub(super) fn receive(&mut self, position: usize, buffer: &mut [u8], guest: &mut Guest) {
        for _ in 0..AT_ONCE {
            // An error is that of an earlier answer, which its client did not receive.
            let Ok((length, client)) = self.ports[position].0.recv_from(buffer) else { return };
            if let Some(stream) = self.flow(position, client, guest).filter(|_| length > 0) {
                guest.send(stream, Message::Stdin(buffer[..length].to_vec()));
            }
        }
    }

    /// Returns the flow of a client, which is new if its first datagram has arrived.
    fn flow(&mut self, port: usize, client: SocketAddr, guest: &mut Guest) -> Option<u32> {
        let used = Instant::now();
        if let Some(&stream) = self.of_clients.get(&(port, client)) {
            self.open.get_mut(&stream)?.used = used;
            return Some(stream);
        }
        if self.open.len() >= MOST_FLOWS
            && let Some((&oldest, _)) = self.open.iter().min_by_key(|(_, flow)| flow.used)
        {
            self.forget(oldest, guest);
        }
        let stream = guest.new_stream()?;
        let service = Service { port: self.ports[port].1, protocol: Protocol::Udp };
        if !guest.send(stream, Message::Connect(service)) {
            return None;
        }
        self.open.insert(stream, Flow { port, client, used });
        self.of_clients.insert((port, client), stream);
        Some(stream)
    }

    /// Handles what the guest says.
    pub(super) fn hear(&mut self, stream: u32, message: Message, guest: &Guest) {
        match (message, self.open.get_mut(&stream)) {
            (Message::Stdout(bytes), Some(flow)) => {
                flow.used = Instant::now();
                // Its client may be gone without anyone noticing.
                let _ = self.ports[flow.port].0.send_to(&bytes, flow.client);
                guest.send(stream, Message::Credit(Channel::Stdout, cost(bytes.len())));
            }
            (Message::Disconnected { .. }, _) => drop(self.remove(stream)),
            _ => {}
        }
    }

    /// Ends the flows that have been idle for too long.
    pub(super) fn forget_idle(&mut self, now: Instant, guest: &Guest) {
        let idle = |flow: &Flow| now.saturating_duration_since(flow.used) > IDLE;
        let old: Vec<u32> = self.open.iter().filter(|(_, flow)| idle(flow)).map(|(&stream, _)| stream).collect();
        old.into_iter().for_each(|stream| self.forget(stream, guest));
    }

    fn forget(&mut self, stream: u32, guest: &Guest) {
        if self.remove(stream).is_some() {
            guest.send(stream, Message::Reset);
        }
    }

    fn remove(&mut self, stream: u32) -> Option<Flow> {
        let flow = self.open.remove(&stream)?;
        self.of_clients.remove(&(flow.port, flow.client));
        Some(flow)
    }
}
