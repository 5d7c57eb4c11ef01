use std::io;
use std::net::Ipv4Addr;

use super::*;

fn every_message() -> Vec<Message> {
    let size = TerminalSize { rows: 24, columns: 80 };
    vec![
        Message::Hello(Hello { version: VERSION, kernel: "6.1.0".into() }),
        Message::Setup(Setup {
            hostname: "m".into(),
            seconds: -1,
            nanoseconds: 7,
            root: RootSource::Share("root".into()),
            overlay: Overlay::Memory { limit: Some(1 << 40) },
            shares: vec![Share { tag: "s0".into(), target: "/w".into(), read_only: true, fill: false, file: None }],
            network: Some(Network {
                address: Ipv4Addr::LOCALHOST,
                prefix: 24,
                gateway: Ipv4Addr::BROADCAST,
                name_servers: vec![],
                search: vec!["corp.test".into()],
                options: vec!["ndots:2".into()],
                host_loopback: true,
                is_hosts: false,
            }),
            directories: vec!["/srv".into()],
            volumes: vec!["/data".into()],
            init_system: true,
            user: Some("web".into()),
            options: Box::new(GuestOptions { shm_size: Some(1), ..GuestOptions::default() }),
        }),
        Message::Ready,
        Message::Start(Process {
            argv: vec!["sh".into(), "-c".into(), "echo \"\u{1F600}\n\"".into()],
            env: vec![("A".into(), String::new())],
            cwd: Some("/".into()),
            user: None,
            terminal: Some(size),
            by_init: false,
            stop_signal: Some(37),
            privileges: Privileges { dropped_capabilities: 1, ..Privileges::default() },
        }),
        Message::Started,
        Message::Stdin(vec![]),
        Message::Stdout((0..=255).collect()),
        Message::Stderr(vec![0; MAX_CHUNK]),
        Message::Credit(Channel::Stderr, u32::MAX),
        Message::Signal(15),
        Message::Resize(size),
        Message::Exited(Ending::Signal(9)),
        Message::StartFailed(StartError { status: 127, cause: "not found".into() }),
        Message::Fatal("why".into()),
        Message::PowerOff,
        Message::Close(Channel::Stdout),
        Message::Halting,
        Message::Warning(Warning::MemoryRanOut { process: "sh".into() }),
        Message::Warning(Warning::OpenFilesFull),
        Message::Stop(0),
        Message::Secret(Secret { name: "key".into(), content: vec![0, 255] }),
        Message::Secret(Secret { name: "empty".into(), content: vec![] }),
        Message::Connect(Service { port: 8080, protocol: Protocol::Tcp }),
        Message::Connect(Service { port: 53, protocol: Protocol::Udp }),
        Message::Reset,
        Message::Disconnected { in_order: true },
        Message::Disconnected { in_order: false },
    ]
}

/// The side that sends a message; credit is sent by both.
fn sender(message: &Message) -> Side {
    match message {
        Message::Setup(_)
        | Message::Start(_)
        | Message::Stdin(_)
        | Message::Signal(_)
        | Message::Resize(_)
        | Message::PowerOff
        | Message::Close(_)
        | Message::Stop(_)
        | Message::Secret(_)
        | Message::Connect(_)
        | Message::Reset => Side::Host,
        _ => Side::Guest,
    }
}

#[test]
fn every_message_survives_the_channel() {
    let mut wire = Vec::new();
    for (stream, message) in (0..).zip(every_message()) {
        message.write(stream, &mut wire).unwrap();
    }
    let mut from = wire.as_slice();
    for (stream, message) in (0..).zip(every_message()) {
        assert_eq!(Message::read(&mut from, sender(&message)).unwrap(), Some((stream, message)));
    }
    assert_eq!(Message::read(from, Side::Guest).unwrap(), None);
}

#[test]
fn a_message_of_the_wrong_side_is_refused_before_its_payload_is_read() {
    for message in every_message() {
        let other = if sender(&message) == Side::Host { Side::Guest } else { Side::Host };
        let both = matches!(message, Message::Credit(..));
        let frame = message.clone().into_frame(1).unwrap();
        let read = Message::read(&frame[..], other);
        assert_eq!(read.is_ok(), both, "{message:?}");
        let header = Message::read(&frame[..HEADER], other).map_err(|error| error.kind());
        assert!(both || header == Err(io::ErrorKind::InvalidData), "{message:?}");
    }
}

#[test]
fn a_guests_text_is_cut_to_what_the_host_reads() {
    let text = "\u{1}é".repeat(100_000);
    for message in [
        Message::Fatal(text.clone()),
        Message::StartFailed(StartError { status: 127, cause: text.clone() }),
        Message::Warning(Warning::DiskFailed { cause: text.clone() }),
        Message::Warning(Warning::MemoryRanOut { process: text }),
    ] {
        let frame = message.into_frame(0).unwrap();
        assert!(frame.len() < 17 << 10);
        Message::read(&frame[..], Side::Guest).unwrap();
    }
}

#[test]
fn frame_layout_is_as_documented() {
    let mut wire = Vec::new();
    Message::Stdout(b"hi".to_vec()).write(0x0102_0304, &mut wire).unwrap();
    assert_eq!(wire, [2, 0, 0, 0, 4, 3, 2, 1, 7, 0, 0, 0, b'h', b'i']);
}

#[test]
fn a_frame_cut_short_is_an_error_and_not_an_end() {
    let mut wire = Vec::new();
    Message::Stdout(b"hello".to_vec()).write(1, &mut wire).unwrap();
    for length in 1..wire.len() {
        let error = Message::read(&wire[..length], Side::Guest).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {length}");
    }
}

#[test]
fn a_length_past_the_limit_is_refused_before_it_is_allocated() {
    for (kind, length, padding, fits) in [
        (7, 0x7fff_ffff, 0, false),
        (7, MAX_CHUNK + 1, 0, false),
        (14, 16 << 10, 0, true),
        (14, (16 << 10) + 1, 0, false),
        (1, (4 << 10) + 1, 0, false),
        (3, 1, 0, false),
        (3, 0, 1, false),
        (3, 0, 0, true),
    ] {
        let mut wire = u32::try_from(length).unwrap().to_le_bytes().to_vec();
        wire.extend([0, 0, 0, 0, kind, 0, padding, 0]);
        let expected = match (fits, length) {
            (true, 0) => Ok(Some((0, Message::Ready))),
            (true, _) => Err(io::ErrorKind::UnexpectedEof),
            (false, _) => Err(io::ErrorKind::InvalidData),
        };
        let read = Message::read(wire.as_slice(), Side::Guest).map_err(|error| error.kind());
        assert_eq!(read, expected, "type {kind} with {length} bytes");
    }
}

#[test]
fn unknown_types_and_wrong_payload_lengths_are_refused() {
    for (kind, payload) in [
        (0, vec![]),
        (24, vec![]),
        (20, vec![]),
        (20, vec![2, b'a']),
        (20, vec![1, 255]),
        (21, vec![1, 0, 2]),
        (22, vec![0]),
        (23, vec![2]),
        (19, vec![1]),
        (17, vec![0]),
        (16, vec![3]),
        (3, vec![1]),
        (9, vec![3, 0, 0, 0, 0]),
        (10, vec![1]),
    ] {
        assert_eq!(Message::parse(kind, payload).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
