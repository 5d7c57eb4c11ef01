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
            shares: vec![Share { tag: "s0".into(), target: "/w".into(), read_only: true, file: None }],
            network: Some(Network {
                address: Ipv4Addr::LOCALHOST,
                prefix: 24,
                gateway: Ipv4Addr::BROADCAST,
                name_servers: vec![],
                search: vec!["corp.test".into()],
                options: vec!["ndots:2".into()],
            }),
            directories: vec!["/srv".into()],
            volumes: vec!["/data".into()],
            init_system: true,
            secrets: vec![Secret { name: "key".into(), content: vec![0, 255] }],
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
    ]
}

#[test]
fn every_message_survives_the_channel() {
    let mut wire = Vec::new();
    for (stream, message) in (0..).zip(every_message()) {
        message.write(stream, &mut wire).unwrap();
    }
    let mut from = wire.as_slice();
    for (stream, message) in (0..).zip(every_message()) {
        assert_eq!(Message::read(&mut from).unwrap(), Some((stream, message)));
    }
    assert_eq!(Message::read(from).unwrap(), None);
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
        let error = Message::read(&wire[..length]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {length}");
    }
}

#[test]
fn a_length_past_the_limit_is_refused_before_it_is_allocated() {
    let mut wire = vec![0xff, 0xff, 0xff, 0x7f];
    wire.extend([0; 8]);
    assert_eq!(Message::read(wire.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn unknown_types_and_wrong_payload_lengths_are_refused() {
    for (kind, payload) in [
        (0, vec![]),
        (20, vec![]),
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
