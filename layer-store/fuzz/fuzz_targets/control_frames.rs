//! What a guest sends on the control channel: the frames, and the host's check of their order.
#![no_main]

use guest_protocol::{Channel, HostSide, MACHINE, Message, Process, Protocol, Service, Side, cost};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut from = bytes;
    let mut host = HostSide::default();
    while let Ok(Some((stream, message))) = Message::read(&mut from, Side::Guest) {
        if host.receives(stream, &message).is_err() {
            break;
        }
        // Does what a supervisor does, so that later messages are about something.
        match message {
            Message::Hello(_) => {
                let setup = r#"{"hostname":"m","seconds":0,"nanoseconds":0,"root":{"share":"r"},"overlay":"read_only","shares":[]}"#;
                assert!(host.sends(MACHINE, &Message::Setup(serde_json::from_str(setup).expect("a setup"))));
            }
            Message::Ready => {
                for stream in 1..4 {
                    assert!(host.sends(stream, &Message::Start(Process::tool(&["x"]))));
                    assert!(host.sends(stream, &Message::Stdin(vec![0; 100])));
                }
                for (stream, protocol) in [(1 << 31, Protocol::Tcp), (1 << 31 | 1, Protocol::Udp)] {
                    assert!(host.sends(stream, &Message::Connect(Service { port: 80, protocol })));
                }
            }
            Message::Stdout(bytes) => drop(host.sends(stream, &Message::Credit(Channel::Stdout, cost(bytes.len())))),
            Message::Fatal(_) => drop(host.sends(MACHINE, &Message::PowerOff)),
            _ => {}
        }
    }
    // The other direction: a command that talks to a supervisor.
    let mut from = bytes;
    while let Ok(Some((_, message))) = Message::read(&mut from, Side::Host) {
        let frame = message.clone().into_frame(7).expect("what was read can be written");
        assert_eq!(Message::read(&frame[..], Side::Host).expect("it can be read again"), Some((7, message)));
    }
});
