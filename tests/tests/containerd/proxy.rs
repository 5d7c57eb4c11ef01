//! A proxy in front of containerd, which stops a call on its way.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// What happens to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has not come yet.
    Awaited,
    /// It has come, and waits.
    Stopped,
    PassedOn,
    /// Its connection is closed.
    Cut,
}

/// A socket that passes everything on to another one, except the first call with a certain text.
pub(crate) struct Proxy {
    path: PathBuf,
    call: Arc<Call>,
}

struct Call {
    text: Vec<u8>,
    fate: Mutex<Fate>,
    changed: Condvar,
}

impl Proxy {
    /// Listens at `path`. Calls with `text` in them wait.
    pub(crate) fn new(path: PathBuf, to: &Path, text: &str) -> Self {
        let listener = UnixListener::bind(&path).expect("a socket");
        let call = Arc::new(Call { text: text.into(), fate: Mutex::new(Fate::Awaited), changed: Condvar::new() });
        let (stopped, to) = (Arc::clone(&call), to.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let pass = || stopped.pass(client?, UnixStream::connect(&to)?);
                // The client sees that the connection has ended.
                drop(pass());
            }
        });
        Self { path, call }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the call has come.
    pub(crate) fn await_call(&self) {
        let fate = self.call.fate.lock().expect("the fate of the call");
        drop(self.call.changed.wait_while(fate, |fate| *fate == Fate::Awaited).expect("the fate of the call"));
    }

    /// Passes the call on.
    pub(crate) fn pass_on(&self) {
        self.call.decide(Fate::PassedOn);
    }

    /// Closes the connection of the call, which is never passed on.
    pub(crate) fn cut(&self) {
        self.call.decide(Fate::Cut);
    }
}

impl Call {
    fn decide(&self, decided: Fate) {
        *self.fate.lock().expect("the fate of the call") = decided;
        self.changed.notify_all();
    }

    /// Copies in both directions, in threads of its own.
    fn pass(self: &Arc<Self>, client: UnixStream, server: UnixStream) -> io::Result<()> {
        let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Both));
        });
        let call = Arc::clone(self);
        thread::spawn(move || {
            drop(call.send(&client, &server));
            drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
        });
        Ok(())
    }

    /// Copies what the client sends, unless it is to be cut.
    fn send(&self, mut client: &UnixStream, mut server: &UnixStream) -> io::Result<()> {
        let (mut piece, mut seen) = (vec![0; 64 << 10], Vec::new());
        loop {
            let length = client.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            seen.extend_from_slice(&piece[..length]);
            if seen.windows(self.text.len()).any(|window| window == self.text) && !self.may_go_on() {
                return Ok(());
            }
            // The text may begin in one piece and end in the next.
            seen.drain(..seen.len().saturating_sub(self.text.len() - 1));
            server.write_all(&piece[..length])?;
        }
    }

    /// Waits until it is decided whether the call is passed on.
    fn may_go_on(&self) -> bool {
        let mut fate = self.fate.lock().expect("the fate of the call");
        match *fate {
            // Another call with the same text.
            Fate::PassedOn | Fate::Cut => return true,
            Fate::Awaited | Fate::Stopped => *fate = Fate::Stopped,
        }
        self.changed.notify_all();
        let decided = self.changed.wait_while(fate, |fate| *fate == Fate::Stopped).expect("the fate of the call");
        *decided == Fate::PassedOn
    }
}
