//! The namespace of a command that is an init: in it the command is process 1, as it is in a container.
//!
//! Such a command also has a mount namespace with the `/proc` of its processes, a `/sys` that is read-only except for
//! the control groups, and its terminal as `/dev/console`. When it powers off or reboots, the kernel ends it and not
//! the guest (reboot(2), "Behavior inside PID namespaces"). The processes that `lamina exec` and `cp` start join it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use guest_protocol::{Ending, Process, StartError};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::sys;

/// The namespace of an init that runs.
#[derive(Debug)]
pub(crate) struct Namespace {
    processes: File,
    mounts: File,
}

impl Namespace {
    /// Returns the namespace of a process whose command [`prepare`] has set up.
    pub(crate) fn of(process: Pid) -> io::Result<Self> {
        let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", process.as_raw_pid()));
        Ok(Self { processes: open("pid")?, mounts: open("mnt")? })
    }

    /// Moves the calling thread into its mounts, and the processes that the thread starts into its process namespace.
    /// The thread cannot start other threads afterwards.
    pub(crate) fn join(&self) -> io::Result<()> {
        // A thread that shares its root and working directory with others cannot change its mounts.
        sys::unshare(UnshareFlags::FS)?;
        move_into_link_name_space(self.processes.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        Ok(move_into_link_name_space(self.mounts.as_fd(), Some(LinkNameSpaceType::Mount))?)
    }
}

/// Makes the next process that the calling thread starts the first one of a new namespace. The thread cannot start
/// other threads afterwards.
pub(crate) fn begin() -> io::Result<()> {
    Ok(sys::unshare(UnshareFlags::NEWPID)?)
}

/// Sets up the mounts of a command for which [`begin`] has been called. `terminal` is the path of its terminal.
pub(crate) fn prepare(command: &mut Command, terminal: Option<CString>, in_container: bool) {
    let hidden = if in_container { Hidden::of_proc() } else { Vec::new() };
    if in_container {
        // Its `/dev` has none unless the container has a terminal.
        let _ = OpenOptions::new().create(true).append(true).open("/dev/console");
    }
    sys::before_exec(command, move || {
        sys::unshare(UnshareFlags::NEWNS)?;
        let hardened = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        // In a user namespace, the kernel mounts it only where one is already to be seen.
        if !in_container {
            unmount(c"/proc", UnmountFlags::DETACH)?;
        }
        mount(c"proc", c"/proc", c"proc", hardened, None)?;
        hidden.iter().try_for_each(Hidden::hide)?;
        // Otherwise udev and the like would set up devices that init has already set up.
        mount_remount(c"/sys", MountFlags::BIND | MountFlags::RDONLY | hardened, c"")?;
        if let Some(terminal) = &terminal {
            mount_bind(terminal.as_c_str(), c"/dev/console")?;
        }
        Ok(())
    });
}

/// Moves the process that `command` starts into the container's own control group, by the file `group`.
pub(crate) fn enter_group(command: &mut Command, group: &File) -> io::Result<()> {
    let group = group.try_clone()?;
    sys::before_exec(command, move || {
        rustix::io::write(&group, b"0")?;
        Ok(())
    });
    Ok(())
}

/// Refuses systemd, which would stop without a message where it has no control groups.
///
/// # Errors
/// The process is systemd.
pub(crate) fn refuse_systemd(process: &Process) -> Result<(), StartError> {
    if !is_systemd(process) {
        return Ok(());
    }
    let cause = "systemd needs control groups of its own. A container has them where systemd delegates control groups of \
                 version 2 to this host's user (loginctl enable-linger), and crun runs it. Use a VM: --engine auto";
    Err(StartError { status: 125, cause: cause.to_owned() })
}

/// A path of `/proc` that is hidden or read-only in a container. The same must be so in the `/proc` of its namespace.
#[derive(Debug)]
struct Hidden {
    path: CString,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Nothing can be written there.
    ReadOnly,
    /// An empty directory is in its place.
    Directory,
    /// An empty file is.
    File,
}

impl Hidden {
    /// Finds them in the list of mounts.
    fn of_proc() -> Vec<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts.lines().filter_map(|line| Self::of(line, |path| Path::new(path).is_dir())).collect()
    }

    /// Reads a line of proc_pid_mountinfo(5).
    fn of(line: &str, is_directory: impl FnOnce(&str) -> bool) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let path = place.split(' ').nth(4).filter(|path| path.starts_with("/proc/"))?;
        let how = match kind.split(' ').next()? {
            "proc" => How::ReadOnly,
            _ if is_directory(path) => How::Directory,
            _ => How::File,
        };
        Some(Self { path: CString::new(path).ok()?, how })
    }

    fn hide(&self) -> io::Result<()> {
        let path = self.path.as_c_str();
        let hardened = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        match self.how {
            How::ReadOnly => {
                mount_bind(path, path)?;
                mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | hardened, c"")?;
            }
            How::Directory => mount(c"tmpfs", path, c"tmpfs", MountFlags::RDONLY | hardened, None)?,
            How::File => mount_bind(c"/dev/null", path)?,
        }
        Ok(())
    }
}

/// Returns how an init has ended. The kernel ends an init that powers off or halts with SIGINT, and one that reboots
/// with SIGHUP. No process can send an init these signals unless the init handles them.
pub(crate) const fn ending(seen: Ending) -> Ending {
    match seen {
        Ending::Signal(1 | 2) => Ending::Status(0),
        seen => seen,
    }
}

/// Returns the signal that asks a process to end.
pub(crate) fn stop_signal(process: &Process) -> u32 {
    const SIGTERM: u32 = 15;
    /// `SIGRTMIN+3`: "halts the machine" (systemd(1), "SIGNALS").
    const HALT: u32 = 37;
    process.stop_signal.unwrap_or_else(|| if is_systemd(process) { HALT } else { SIGTERM })
}

fn is_systemd(process: &Process) -> bool {
    let program = process.argv.first().map_or("", String::as_str);
    let found = fs::canonicalize(program).unwrap_or_else(|_| program.into());
    process.is_init_system() && found.file_name().is_some_and(|name| name == "systemd")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(program: &str, stop_signal: Option<u32>) -> Process {
        Process { argv: vec![program.to_owned()], stop_signal, ..Process::default() }
    }

    #[test]
    fn every_process_is_asked_to_end_by_its_own_signal() {
        for (program, given, expected) in [
            ("nginx", Some(3), 3),
            ("sleep", None, 15),
            ("systemd", None, 37),
            ("/nowhere/systemd", None, 37),
            ("/nowhere/init", None, 15),
            ("systemd", Some(2), 2),
        ] {
            assert_eq!(stop_signal(&process(program, given)), expected, "{program}");
        }
    }

    #[test]
    fn what_is_hidden_in_a_container_is_found_in_its_list_of_mounts() {
        let how = |line: &str, is_directory| Hidden::of(line, |_| is_directory).map(|hidden| hidden.how);
        let proc = "30 25 0:40 / /proc rw,nosuid - proc proc rw";
        assert_eq!(how(proc, true), None);
        assert_eq!(how("31 30 0:40 /sys /proc/sys ro,nosuid - proc proc rw", true), Some(How::ReadOnly));
        assert_eq!(how("32 30 0:41 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw", false), Some(How::File));
        assert_eq!(how("33 30 0:42 / /proc/acpi ro - tmpfs tmpfs ro", true), Some(How::Directory));
        assert_eq!(how("34 25 0:43 / /process ro - tmpfs tmpfs ro", true), None);
    }

    #[test]
    fn inits_are_known_by_their_names() {
        for (program, init) in [
            ("/sbin/init", true),
            ("/init", true),
            ("tini", true),
            ("/lib/systemd/systemd", true),
            ("initdb", false),
            ("", false),
        ] {
            assert_eq!(process(program, None).is_init_system(), init, "{program}");
        }
    }

    #[test]
    fn an_init_that_powers_off_has_ended_well() {
        assert_eq!(ending(Ending::Signal(2)), Ending::Status(0));
        assert_eq!(ending(Ending::Signal(9)), Ending::Signal(9));
        assert_eq!(ending(Ending::Status(3)), Ending::Status(3));
    }
}
