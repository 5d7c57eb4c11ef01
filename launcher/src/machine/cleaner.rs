//! Who tidies up after a supervisor that was killed: a process that does nothing but wait for its end.
//!
//! `lamina __clean NAME` has the reading end of a pipe as its standard input, whose writing end only the supervisor
//! holds. The supervisor says [`DONE`] when it has tidied up itself; the end of the pipe without it means that it was
//! killed. The kernel then ends the hypervisor and the share servers (they are tied to it), and the watcher removes
//! mount and sockets and marks the machine. Should the watcher be killed too, the next command does that.

use std::io::{PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::directory::existing;
use super::reconcile::reconcile;
use crate::failure::{About, Failure};
use crate::sys;

/// The first argument by which `lamina` runs as [`clean`]: not a command for users.
pub(crate) const CLEAN: &str = "__clean";

const DONE: &[u8] = b"done";

/// The supervisor's hold on its watcher. Dropped when all is tidied up.
#[derive(Debug)]
pub(crate) struct Cleaner {
    pipe: PipeWriter,
    child: Child,
}

impl Cleaner {
    /// Sets a watcher beside the machine called `name`.
    pub(crate) fn set(name: &str) -> Result<Self, Failure> {
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
        // Fails for a watcher that was killed.
        let _ = self.pipe.write_all(DONE);
        let _ = self.child.wait();
    }
}

/// Stands by until the supervisor of the machine called `name` has ended.
///
/// # Errors
/// The machine is not there.
pub(crate) fn clean(name: &str) -> Result<u8, Failure> {
    // The terminal's Ctrl-C and hang-up are not for us.
    rustix::process::setsid().about(CLEAN)?;
    let state = existing(name)?;
    sys::let_go_of_programs();
    let mut heard = [0; DONE.len()];
    if std::io::stdin().read_exact(&mut heard).is_ok() && heard == DONE {
        return Ok(0);
    }
    // A process that is being killed closes its pipe a moment before its lock is free and its end can be seen.
    for _ in 0..20 {
        reconcile(&state);
        match super::record::Record::read(&state) {
            Ok(record) if record.state.is_active() => std::thread::sleep(Duration::from_millis(50)),
            _ => break,
        }
    }
    Ok(0)
}
