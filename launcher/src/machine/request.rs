//! What other commands ask of a machine's supervisor, over the socket `api.sock` of that machine.
//!
//! A connection begins with one line of JSON, a [`ApiRequest`], which is answered by one line, a [`Reply`]. After
//! [`ApiRequest::Exec`] both sides continue with the frames of the guest's control channel ([`guest_protocol`]), with
//! [`STREAM`] as the stream. The supervisor only changes that number, so the windows of the process's channels reach
//! from the guest to the command that started it. The connection ends after the process's last message.
//!
//! Only a process that may enter the directory of sockets can connect, so only one of its owner's.

use std::io::{self, Read, Write};

use guest_protocol::Process;
use serde::{Deserialize, Serialize};

/// The name of the socket.
pub(crate) const SOCKET: &str = "api";
/// The stream of the process on a connection.
pub(crate) const STREAM: u32 = 1;
/// The longest request in bytes, as for a message to the guest.
const LONGEST: u64 = guest_protocol::MAX_PAYLOAD as u64;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ApiRequest {
    /// Start a further process in the machine. It gets the environment, directory and user of the first process unless
    /// it has its own. One of init's tools is started unchanged.
    Exec(Process),
    /// Start a further process, and answer when it runs. Its output is discarded.
    Spawn(Process),
    /// Pass on all further bytes of the connection to the first process, whose input stays open.
    Input,
    /// End the first process: with its stop signal, and with SIGKILL if it has not ended in time.
    Stop {
        /// Milliseconds.
        timeout: u64,
    },
    /// Send a signal to the first process.
    Signal(u32),
    /// End the machine at once.
    Kill,
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The request is carried out.
    Accepted,
    /// The request cannot be carried out, for this reason.
    Refused(String),
}

/// Writes one line of JSON.
pub(crate) fn write_line(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line of JSON and not a byte more.
pub(crate) fn read_line<T: for<'de> Deserialize<'de>>(mut from: impl Read) -> io::Result<T> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.extend(byte);
        if line.len() as u64 > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_not_a_byte_more() {
        let mut wire = Vec::new();
        write_line(&mut wire, &ApiRequest::Stop { timeout: 7 }).unwrap();
        wire.extend(b"rest");
        let mut from = wire.as_slice();
        assert!(matches!(read_line(&mut from).unwrap(), ApiRequest::Stop { timeout: 7 }));
        assert_eq!(from, b"rest");
        assert!(read_line::<ApiRequest>(b"{\"kill\"".as_slice()).is_err());
    }
}
