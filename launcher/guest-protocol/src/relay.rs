//! One end of a forwarded TCP connection: moves bytes between a socket and the frames of its stream. The host and the
//! guest do the same, in opposite directions.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::event::PollFlags;
use rustix::net::sockopt::set_socket_linger;

use crate::{HEADER, MAX_CHUNK, Protocol, cost};

/// One end of a connection. Its socket must not block.
#[derive(Debug)]
pub struct Relay {
    socket: TcpStream,
    /// What the other end has sent and must still be written to the socket. An empty chunk is the end.
    waiting: VecDeque<Vec<u8>>,
    /// How much of the first chunk has been written.
    written: usize,
    /// How much of the other end's window is left.
    room: u32,
    /// The socket has reported its end.
    read_ended: bool,
    /// The other end has sent its end, and the socket has been told.
    write_ended: bool,
}

/// What to do after something has happened to a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Wait until the socket can be read.
    pub read: bool,
    /// Wait until the socket can be written.
    pub write: bool,
}

impl Interest {
    /// Returns what poll(2) is asked for.
    #[must_use]
    pub fn flags(self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.read);
        flags.set(PollFlags::OUT, self.write);
        flags
    }
}

impl Relay {
    /// Starts to relay for a connected socket.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // What arrives in a frame is sent at once: the sender has collected it already.
        socket.set_nodelay(true)?;
        let room = Protocol::Tcp.window();
        let waiting = VecDeque::new();
        Ok(Self { socket, waiting, written: 0, room, read_ended: false, write_ended: false })
    }

    /// Returns the socket.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Returns what to wait for.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest { read: !self.read_ended && self.room > cost(0), write: !self.waiting.is_empty() }
    }

    /// Returns whether the only thing left to learn from the socket is that it has ended.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.write_ended && self.interest() == Interest::default()
    }

    /// Returns whether both directions have ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.read_ended && self.write_ended
    }

    /// Returns whether something is left to be written to the socket.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a chunk from the other end. An empty one is the end.
    pub fn take(&mut self, chunk: Vec<u8>) {
        self.waiting.push_back(chunk);
    }

    /// Takes back `bytes` of the other end's window.
    pub fn credit(&mut self, bytes: u32) {
        self.room = self.room.saturating_add(bytes).min(Protocol::Tcp.window());
    }

    /// Reads what the socket has. Returns the next chunk for the other end, an empty one for the end of the socket's
    /// direction, or `None` if there is nothing now.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
        let room = (self.room as usize).saturating_sub(HEADER).min(buffer.len()).min(MAX_CHUNK);
        if self.read_ended || room == 0 {
            return Ok(None);
        }
        match self.socket.read(&mut buffer[..room]) {
            Ok(count) => {
                self.read_ended = count == 0;
                if count > 0 {
                    self.room -= cost(count);
                }
                Ok(Some(buffer[..count].to_vec()))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes as many of the waiting bytes as the socket takes. Returns how many bytes to return to the other end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn write(&mut self) -> io::Result<u32> {
        let mut done = 0;
        while let Some(chunk) = self.waiting.front() {
            if chunk.is_empty() {
                self.waiting.clear();
                self.write_ended = true;
                // Fails if the connection has ended, which a read then shows.
                let _ = self.socket.shutdown(Shutdown::Write);
                break;
            }
            match self.socket.write(&chunk[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.written == chunk.len() {
                done += cost(chunk.len());
                self.written = 0;
                self.waiting.pop_front();
            }
        }
        Ok(done)
    }

    /// Drops the connection so that its peer sees a reset and not an end.
    pub fn reset(self) {
        let _ = set_socket_linger(&self.socket, Some(std::time::Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn connected() -> (TcpStream, Relay) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Relay::new(listener.accept().unwrap().0).unwrap())
    }

    fn read(relay: &mut Relay) -> Vec<u8> {
        let mut buffer = vec![0; MAX_CHUNK];
        loop {
            if let Some(chunk) = relay.read(&mut buffer).unwrap() {
                return chunk;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let (mut client, mut relay) = connected();
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&mut relay), b"request");
        assert_eq!(read(&mut relay), b"");
        assert!(!relay.is_over() && relay.interest() == Interest::default());
        relay.take(b"answer".to_vec());
        relay.take(Vec::new());
        assert_eq!(relay.write().unwrap(), cost(6));
        assert!(relay.is_over());
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }

    #[test]
    fn no_more_is_read_than_the_window_has_room_for() {
        let (mut client, mut relay) = connected();
        let window = Protocol::Tcp.window() as usize;
        let sending = std::thread::spawn(move || client.write_all(&vec![7; 2 * window]).map(|()| client));
        let mut taken = 0;
        while relay.interest().read {
            taken += HEADER + read(&mut relay).len();
        }
        assert!(taken <= window && taken > window - 2 * HEADER, "{taken}");
        relay.credit(cost(100));
        assert!(read(&mut relay).len() <= 100 + HEADER);
        relay.credit(u32::MAX);
        while !sending.is_finished() {
            relay.credit(u32::MAX);
            let _ = relay.read(&mut vec![0; 1 << 16]).unwrap();
        }
        sending.join().unwrap().unwrap();
    }

    #[test]
    fn a_slow_reader_holds_back_credit_and_a_reset_reaches_the_peer() {
        let (mut client, mut relay) = connected();
        let mut credit = 0;
        let mut sent = 0;
        // The kernel's buffers fill up.
        while !relay.has_output() {
            relay.take(vec![1; 10_000]);
            sent += cost(10_000);
            credit += relay.write().unwrap();
        }
        assert!(credit < sent);
        relay.reset();
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
