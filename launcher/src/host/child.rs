//! Helper programs that do not outlive this process.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;

/// The first argument with which `lamina` runs as [`die_with_parent`]. It is not a command for users.
pub(crate) const DIE_WITH_PARENT: &str = "__die_with_parent";

/// Returns a command that starts `command` with no input, in its own process group (because this process passes on
/// a Ctrl-C at the terminal), and in the root directory (because a process keeps the file system of its working
/// directory busy, even from a mount namespace that has left it). The kernel kills it when the calling *thread* ends.
///
/// # Errors
/// This program's own path cannot be found.
pub(crate) fn command(command: &CommandLine) -> Result<Command, Failure> {
    let tied = CommandLine::of_ourselves(DIE_WITH_PARENT)?
        .arg(std::process::id().to_string())
        .arg(&command.program)
        .args(&command.arguments);
    Ok(plain(&tied))
}

/// Returns a command as [`command`] does, which the kernel does not kill.
pub(crate) fn plain(command: &CommandLine) -> Command {
    let mut plain = Command::new(&command.program);
    plain.args(&command.arguments).process_group(0).current_dir("/").stdin(Stdio::null());
    plain
}

/// Becomes the program that the arguments name, after asking the kernel to kill it when its parent ends.
/// `PR_SET_PDEATHSIG` survives execve(2), but can only be asked for by the process itself.
///
/// # Errors
/// Always: this returns only if it fails.
pub(crate) fn die_with_parent(arguments: &[OsString]) -> Result<std::convert::Infallible, Failure> {
    let [parent, program, rest @ ..] = arguments else {
        return Err(Failure::new(DIE_WITH_PARENT, "needs a process id and a program"));
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).about("prctl(PR_SET_PDEATHSIG)")?;
    // The parent may have ended before the kernel was asked.
    let actual = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if actual.as_deref() != parent.to_str() {
        return Err(Failure::new(DIE_WITH_PARENT, "the parent has ended"));
    }
    let error = Command::new(program).args(rest).exec();
    Err(Failure::new(program.to_string_lossy(), error))
}

/// Returns the processor time that a process has used, including that of its threads and (for a hypervisor) of its
/// guest.
#[must_use]
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name may contain anything, and the fields from 3 on follow its ")".
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Returns when a running process was started, in clock ticks since the host's start. The id and this time together
/// identify a process; the id alone may be used again.
#[must_use]
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // A zombie has ended, and has not been reaped yet.
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Finds a program in `PATH`, then in `further` directories.
#[must_use]
pub(crate) fn find(program: &str, further: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let executable =
        |candidate: &PathBuf| candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok();
    std::env::split_paths(&path)
        .chain(further.iter().map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_start_time_and_processor_time_are_readable() {
        let ourselves = rustix::process::getpid();
        assert!(start_time(ourselves).is_some_and(|ticks| ticks > 0));
        assert!(processor_time(std::process::id()).is_some());
        assert_eq!(processor_time(u32::MAX), None);
    }

    #[test]
    fn programs_are_found_in_path_and_nowhere_else() {
        assert!(find("sh", &[]).is_some_and(|path| path.is_absolute()));
        assert_eq!(find("no-such-program-of-ours", &["/usr/bin"]), None);
    }
}
