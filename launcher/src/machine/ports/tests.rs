use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};

use guest_protocol::{Channel, HEADER, HostSide, Protocol, Service, Side, cost};

use super::*;
use crate::machine::event::Event;

fn publish(host: u16, guest: u16, udp: bool) -> Publish {
    Publish { address: Ipv4Addr::LOCALHOST.into(), host, guest, udp }
}

/// Published ports whose guest is this test.
struct Fixture {
    guest: UnixStream,
    ports: Arc<Ports>,
    tcp: SocketAddrV4,
    udp: SocketAddrV4,
}

fn address(of: std::io::Result<std::net::SocketAddr>) -> SocketAddrV4 {
    match of.unwrap() {
        std::net::SocketAddr::V4(address) => address,
        other => panic!("{other}"),
    }
}

impl Fixture {
    fn new() -> Self {
        let (guest, host) = UnixStream::pair().unwrap();
        let (events, inbox) = channel();
        let control = Control::new(host.try_clone().unwrap(), HostSide::with_process(1), events);
        control.listen(host);
        let mut listeners = Listeners::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (tcp, udp) = (address(listener.local_addr()), address(socket.local_addr()));
        listener.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        listeners.tcp.push((listener, 80));
        listeners.udp.push((socket, 53));
        let ports = Arc::new(Ports::open(listeners, control).unwrap().unwrap());
        let shared = Arc::downgrade(&ports);
        std::thread::spawn(move || pass_on(&inbox, &shared));
        Self { guest, ports, tcp, udp }
    }

    /// The next message other than credit, which is no longer sent for a stream that has ended.
    fn hear(&self) -> (u32, Message) {
        loop {
            let heard = Message::read(&self.guest, Side::Host).unwrap().unwrap();
            if !matches!(heard.1, Message::Credit(..)) {
                return heard;
            }
        }
    }

    fn say(&self, stream: u32, message: Message) {
        message.write(stream, &self.guest).unwrap();
    }

    /// A client, and the stream of its connection.
    fn client(&self) -> (TcpStream, u32) {
        let client = TcpStream::connect(self.tcp).unwrap();
        let (stream, message) = self.hear();
        assert_eq!(message, Message::Connect(Service { port: 80, protocol: Protocol::Tcp }));
        (client, stream)
    }
}

/// Does what the supervisor does.
fn pass_on(inbox: &Receiver<Event>, ports: &std::sync::Weak<Ports>) {
    for event in inbox {
        match event {
            Event::Control(stream, message, _) => {
                if let Some(ports) = ports.upgrade() {
                    ports.deliver(stream, message);
                }
            }
            Event::ControlClosed(error) => assert!(error.is_none(), "{error:?}"),
            _ => {}
        }
    }
}

#[test]
fn each_direction_of_a_connection_ends_by_itself_and_the_guests_last_word_ends_it() {
    let fixture = Fixture::new();
    let (mut client, stream) = fixture.client();
    client.write_all(b"request").unwrap();
    assert_eq!(fixture.hear(), (stream, Message::Stdin(b"request".to_vec())));
    fixture.say(stream, Message::Credit(Channel::Stdin, cost(7)));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(fixture.hear(), (stream, Message::Stdin(Vec::new())));
    fixture.say(stream, Message::Stdout(b"answer".to_vec()));
    let credit = Message::read(&fixture.guest, Side::Host).unwrap();
    assert_eq!(credit, Some((stream, Message::Credit(Channel::Stdout, cost(6)))));
    fixture.say(stream, Message::Stdout(Vec::new()));
    fixture.say(stream, Message::Disconnected { in_order: true });
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

#[test]
fn a_reset_reaches_the_other_side_in_both_directions() {
    let fixture = Fixture::new();
    let (mut refused, stream) = fixture.client();
    fixture.say(stream, Message::Stdout(b"but first".to_vec()));
    fixture.say(stream, Message::Disconnected { in_order: false });
    let mut said = Vec::new();
    let error = refused.read_to_end(&mut said).unwrap_err();
    assert_eq!((error.kind(), said.as_slice()), (ErrorKind::ConnectionReset, b"but first".as_slice()));

    let (client, stream) = fixture.client();
    rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(fixture.hear(), (stream, Message::Reset));
    fixture.say(stream, Message::Disconnected { in_order: false });
}

#[test]
fn a_service_that_takes_nothing_holds_up_its_client_and_no_other() {
    let fixture = Fixture::new();
    let (client, stream) = fixture.client();
    client.set_nonblocking(true).unwrap();
    let mut arrived = 0;
    let window = Protocol::Tcp.window() as usize;
    while arrived + HEADER < window {
        while (&client).write(&[7; 4096]).is_ok() {}
        let (from, Message::Stdin(bytes)) = fixture.hear() else { panic!("no input") };
        assert_eq!(from, stream);
        arrived += bytes.len() + HEADER;
    }
    assert!(arrived <= window, "{arrived}");
    let (mut other, next) = fixture.client();
    other.write_all(b"x").unwrap();
    assert_eq!(fixture.hear(), (next, Message::Stdin(b"x".to_vec())));
}

#[test]
fn more_clients_than_the_limit_wait_until_a_connection_ends() {
    // Both ends of each connection are in this process.
    let files = Some(4 * MOST_CONNECTIONS as u64);
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: files, maximum })
        .unwrap();
    let fixture = Fixture::new();
    let mut clients: Vec<(TcpStream, u32)> = (0..MOST_CONNECTIONS).map(|_| fixture.client()).collect();
    let waiting = TcpStream::connect(fixture.tcp).unwrap();
    let (client, stream) = clients.remove(0);
    rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(fixture.hear(), (stream, Message::Reset));
    assert!(matches!(fixture.hear(), (_, Message::Connect(_))));
    drop(waiting);
}

#[test]
fn datagrams_of_each_client_are_a_flow_and_answers_find_their_way() {
    let fixture = Fixture::new();
    let clients = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let mut streams = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        client.send_to(format!("from {number}").as_bytes(), fixture.udp).unwrap();
        let (stream, connect) = fixture.hear();
        assert_eq!(connect, Message::Connect(Service { port: 53, protocol: Protocol::Udp }));
        assert_eq!(fixture.hear(), (stream, Message::Stdin(format!("from {number}").into_bytes())));
        streams.push(stream);
    }
    for (stream, client) in streams.iter().zip(&clients).rev() {
        fixture.say(*stream, Message::Stdout(vec![9; 65_000]));
        let mut buffer = vec![0; 1 << 16];
        assert_eq!(client.recv(&mut buffer).unwrap(), 65_000);
    }
}

#[test]
fn the_end_of_the_machine_closes_its_ports_and_connections() {
    let fixture = Fixture::new();
    let (mut client, _) = fixture.client();
    let Fixture { ports, tcp, udp, guest: _guest } = fixture;
    // The thread that passes messages on holds them for a moment only.
    let mut ports = ports;
    while let Err(held) = Arc::try_unwrap(ports).map(drop) {
        ports = held;
    }
    assert!(client.read(&mut [0]).is_ok_and(|count| count == 0) || client.read(&mut [0]).is_err());
    let again = Listeners::bind(&[publish(tcp.port(), 80, false), publish(udp.port(), 53, true)]);
    again.unwrap();
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let failure = Listeners::bind(&[publish(port, 80, false)]).unwrap_err().to_string();
    assert!(failure.starts_with(&format!("--publish 127.0.0.1:{port}:80: Address already in use")), "{failure}");
    drop(taken);
    let twice = [publish(port, 80, false), publish(port, 81, false)];
    assert!(Listeners::bind(&twice).unwrap_err().to_string().contains(":81: Address already in use"));
    Listeners::bind(&[twice[0], publish(port, 80, true)]).unwrap();
    let elsewhere =
        Listeners::bind(&[Publish { address: Ipv4Addr::new(192, 0, 2, 1).into(), ..publish(4000, 80, false) }])
            .unwrap_err();
    assert_eq!(elsewhere.hint(), Some("publish it at an address that this host has"));
}
