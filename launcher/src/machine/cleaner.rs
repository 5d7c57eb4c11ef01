//! The process that cleans up after a supervisor that was killed. Until then it only waits for the supervisor's end.
//!
//! `lamina __clean NAME` has the reading end of a pipe as its standard input; only the supervisor has the writing end.
//! The supervisor writes [`DONE`] when it has cleaned up itself. If the pipe ends without that, the supervisor was
//! killed: the kernel then kills the hypervisor and the share servers, and the cleaner removes the mount and the
//! sockets and marks the machine as failed. If the cleaner is killed too, the next command does that.

use std::io::{PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::directory::existing;
use super::reconcile::reconcile;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::{About, Failure};
use crate::host::process::ends_within;
use crate::sys;

/// The first argument with which `lamina` runs as [`clean`]. It is not a command for users.
pub(crate) const CLEAN: &str = "__clean";

const DONE: &[u8] = b"done";

/// How long a cleaner may take to end after its work is done.
const LEAVE: Duration = Duration::from_secs(5);

/// The supervisor's side of its cleaner. Dropped when everything has been cleaned up.
#[derive(Debug)]
pub(crate) struct Cleaner {
    pipe: PipeWriter,
    child: Child,
}

impl Cleaner {
    /// Starts the cleaner of the machine called `name`.
    pub(crate) fn start(name: &str) -> Result<Self, Failure> {
        let (reader, pipe) = std::io::pipe().about("pipe")?;
        let ourselves = std::env::current_exe().about("/proc/self/exe")?;
        let mut command = Command::new(ourselves);
        command.args([CLEAN, name]).stdin(Stdio::from(OwnedFd::from(reader))).stdout(Stdio::null());
        command.stderr(Stdio::null());
        Ok(Self { pipe, child: command.spawn().about(CLEAN)? })
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        // Fails for a cleaner that was killed.
        let _ = self.pipe.write_all(DONE);
        let ended =
            pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).map(|process| ends_within(&process, LEAVE));
        if ended == Ok(false) {
            // It has been stopped (SIGSTOP).
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Waits until the supervisor of the machine called `name` has ended, and cleans up if it was killed.
///
/// # Errors
/// No machine has that name.
pub(crate) fn clean(name: &str) -> Result<u8, Failure> {
    // A Ctrl-C or hang-up of the terminal must not reach this process.
    rustix::process::setsid().about(CLEAN)?;
    let state = existing(name)?;
    sys::let_go_of_programs();
    let mut word = [0; DONE.len()];
    if std::io::stdin().read_exact(&mut word).is_ok() && word == DONE {
        return Ok(0);
    }
    // A process that is being killed closes its pipe shortly before its lock is released and its end is visible.
    for _ in 0..20 {
        reconcile(&state);
        match super::record::Record::read(&state) {
            Ok(record) if record.state.is_active() => std::thread::sleep(Duration::from_millis(50)),
            _ => break,
        }
    }
    Ok(0)
}
