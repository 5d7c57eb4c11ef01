//! A client of gRPC on a Unix socket: a connection for each call, with one message each way.
//!
//! HTTP/2 (RFC 9113) as far as that needs it. A library would give the crates that the tests share other features than the
//! programs have, and all of them would be compiled twice.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use end_to_end::PATIENCE;
use prost::Message;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Flags of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A server.
pub(crate) struct Grpc(PathBuf);

impl Grpc {
    pub(crate) fn at(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Calls a method, such as `/runtime.v1.RuntimeService/Version`. Why a server refuses a call is in its log.
    pub(crate) fn call<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A, String> {
        let answer = self.exchange(method, &message.encode_to_vec()).map_err(|error| format!("{method}: {error}"))?;
        A::decode(answer.as_slice()).map_err(|error| format!("{method}: {error}"))
    }

    #[allow(clippy::big_endian_bytes, reason = "the order of the network")]
    fn exchange(&self, method: &str, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(PREFACE)?;
        send(&mut stream, SETTINGS, 0, 0, &[])?;
        let mut head = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", method),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            // Other services do not look at it.
            ("containerd-namespace", "default"),
        ] {
            // A literal that is not indexed (RFC 7541, section 6.2.2); all texts are shorter than 127 bytes.
            head.push(0);
            for text in [name, value] {
                head.push(u8::try_from(text.len()).expect("a short text"));
                head.extend_from_slice(text.as_bytes());
            }
        }
        send(&mut stream, HEADERS, END_HEADERS, 1, &head)?;
        // Not compressed, and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
        framed.extend_from_slice(message);
        send(&mut stream, DATA, END_STREAM, 1, &framed)?;
        answer(&mut stream)
    }
}

/// Reads the message of an answer. A refusal has none.
fn answer(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut received = Vec::new();
    loop {
        let (kind, flags, payload) = receive(stream)?;
        match kind {
            SETTINGS if flags & ACK == 0 => send(stream, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => send(stream, PING, ACK, 0, &payload)?,
            DATA => received.extend_from_slice(&payload),
            RST_STREAM | GOAWAY => return Err(io::Error::other("the server has ended the connection")),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            let message = received.get(5..).ok_or_else(|| io::Error::other("the server has refused the call"));
            return message.map(<[u8]>::to_vec);
        }
    }
}

#[allow(clippy::big_endian_bytes, reason = "the order of the network")]
fn send(stream: &mut UnixStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

#[allow(clippy::big_endian_bytes, reason = "the order of the network")]
fn receive(stream: &mut UnixStream) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [high, middle, low, kind, flags, ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    stream.read_exact(&mut payload)?;
    Ok((kind, flags, payload))
}
