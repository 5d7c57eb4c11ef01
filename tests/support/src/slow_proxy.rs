//! A proxy that lets every connection through slowly, as some registries do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How much is let through at once.
const PIECE: usize = 16 << 10;

/// A running proxy in front of a server on the loopback interface.
#[derive(Debug)]
pub struct SlowProxy {
    /// The port on the loopback interface.
    pub port: u16,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    ranges: Mutex<Vec<String>>,
    sending: AtomicUsize,
    most: AtomicUsize,
}

impl SlowProxy {
    /// Starts a proxy in front of `port`, which waits for `pause` after every 16 KiB of each connection's answers.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn start(port: u16, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let proxy = Self { port: own, seen: Arc::clone(&seen) };
        // The threads end with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
                let (requests, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let of_requests = Arc::clone(&seen);
                thread::spawn(move || of_requests.pass_requests(requests, server));
                let of_answers = Arc::clone(&seen);
                thread::spawn(move || of_answers.pass_answers(answers, client, pause));
            }
        });
        proxy
    }

    /// The values of all `Range` headers so far, in order.
    ///
    /// # Panics
    /// When a thread of the proxy has panicked.
    #[must_use]
    pub fn ranges(&self) -> Vec<String> {
        self.seen.ranges.lock().unwrap().clone()
    }

    /// Over how many connections answers were sent at the same time, at most.
    #[must_use]
    pub fn most_sending(&self) -> usize {
        self.seen.most.load(Ordering::Relaxed)
    }
}

impl Seen {
    /// A request of these tests is smaller than a buffer, and sent at once.
    fn pass_requests(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).to_lowercase();
            let ranges = text.lines().filter_map(|line| line.strip_prefix("range: ")).map(str::to_owned);
            self.ranges.lock().unwrap().extend(ranges);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    fn pass_answers(&self, mut from: TcpStream, mut to: TcpStream, pause: Duration) {
        let mut buffer = [0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let sending = self.sending.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(sending, Ordering::Relaxed);
            let sent = to.write_all(&buffer[..length]);
            thread::sleep(pause);
            self.sending.fetch_sub(1, Ordering::Relaxed);
            if sent.is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
