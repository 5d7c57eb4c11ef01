//! Waits for every process whose parent is gone, as process 1 must, and for the processes that init starts.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use guest_protocol::Ending;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, WaitStatus, pidfd_open, wait, waitid};

use crate::Guest;

/// Where to report the end of each process that init has started.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    waiting: Mutex<HashMap<Pid, Sender<Ending>>>,
    spawned: Condvar,
}

/// A process that has been started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its number.
    pub(crate) id: Pid,
    /// The process itself.
    pub(crate) process: OwnedFd,
    /// Receives how it ends.
    pub(crate) ending: Receiver<Ending>,
}

impl Reaper {
    /// Starts the thread that reaps for as long as the guest runs.
    pub(crate) fn run(guest: &Arc<Guest>) {
        let guest = Arc::clone(guest);
        std::thread::spawn(move || {
            loop {
                guest.reaper.reap_next();
            }
        });
    }

    /// Starts a process.
    ///
    /// The lock is held throughout, because `Command::spawn` itself waits for a child whose exec failed, and must find
    /// it.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Started> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let id = Pid::from_child(&child);
        let process = pidfd_open(id, PidfdFlags::empty())?;
        let (sender, ending) = channel();
        waiting.insert(id, sender);
        self.spawned.notify_all();
        Ok(Started { id, process, ending })
    }

    /// Waits without reaping until a process has ended, then reaps all that have ended, under the lock.
    fn reap_next(&self) {
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(Errno::CHILD) => {
                // There are no children. The next one can only come from `spawn`.
                let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_empty() {
                    drop(self.spawned.wait(waiting));
                }
            }
            _ => self.reap_ended(),
        }
    }

    fn reap_ended(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(sender) = waiting.remove(&pid) {
                // Fails if the session no longer listens.
                let _ = sender.send(ending(status));
            }
        }
    }
}

fn ending(status: WaitStatus) -> Ending {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Status(byte(code)),
        (None, signal) => Ending::Signal(byte(signal.unwrap_or_default())),
    }
}
