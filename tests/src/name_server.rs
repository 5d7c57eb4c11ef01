//! A name server of this host.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Answers every query for a name with 192.0.2.77, on the port that resolv.conf implies.
#[derive(Debug)]
pub struct NameServer {
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl NameServer {
    /// Starts one at an address of this host.
    ///
    /// # Panics
    /// When another process uses the port.
    #[must_use]
    pub fn start(address: &str) -> Self {
        let socket = UdpSocket::bind((address, 53)).unwrap_or_else(|error| panic!("port 53 of {address}: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout of a socket");
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !told.load(Ordering::Relaxed) {
                let Ok((length, asker)) = socket.recv_from(&mut question) else { continue };
                let mut answer = question[..length].to_vec();
                let name_end = 12 + answer[12..].iter().position(|&byte| byte == 0).unwrap_or_default();
                let is_a = answer[name_end + 1..name_end + 3] == [0, 1];
                answer.truncate(name_end + 5);
                // A response, with recursion available: one question, and one answer if it asks for an IPv4 address.
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
                }
                let _ = socket.send_to(&answer, asker);
            }
        });
        Self { end, thread: Some(thread) }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().expect("it runs").join();
    }
}
