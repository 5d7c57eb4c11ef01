//! What `lamina __confine` does.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, mount};
use rustix::process::{
    DumpableBehavior, Gid, Pid, Signal, Uid, getegid, geteuid, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setsid,
};
use rustix::thread::{UnshareFlags, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::encoding::{CONFINE, Order, decode};
use super::{Account, Confinement, NewRoot, landlock, limits, seccomp};
use crate::failure::{About, Failure};
use crate::host::confine::Namespace;
use crate::sys;

/// Becomes the program that the arguments name, confined as they say.
///
/// With a namespace of process ids, copies of this process do the rest, because only children enter such a namespace. The
/// first is its init, and waits. (The kernel keeps most signals from an init, so the program must not be it.) The second
/// becomes the program. Both are children of the process that started this one, as if there were nothing in between.
/// That process reads their ids from a pipe, which is this process's standard input, and reads nothing if this process
/// itself becomes the program. The pipe's end means that the program has been started, or could not be.
///
/// # Errors
/// This returns only if it fails, or in the process that was copied.
pub(crate) fn enter(arguments: &[OsString]) -> Result<u8, Failure> {
    let Order { parent, confinement, command } =
        decode(arguments).ok_or_else(|| Failure::new(CONFINE, "its arguments do not describe a program"))?;
    let report = take_standard_input()?;
    end_with_parent(&report)?;
    if getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) != Some(parent) {
        return Err(Failure::new(CONFINE, "the parent has ended"));
    }
    let (proc, own) = (open_proc()?, sys::Arguments::find());
    let first = Confinement::at_first(&confinement);
    unshare(first, &proc)?;
    if first.contains(UnshareFlags::NEWUTS) {
        rustix::system::sethostname(b"lamina").about("sethostname")?;
    }
    if first.contains(UnshareFlags::NEWNS) {
        show(&confinement)?.enter()?;
    }
    if let Some(directory) = &confinement.directory {
        std::env::set_current_dir(directory).about(directory.display())?;
    }
    if first.contains(UnshareFlags::NEWPID) {
        let Some(init) = sys::fork_sibling().about("clone")? else {
            return wait_as_init(&confinement, &proc, report, own).map(|never| match never {});
        };
        if let Some(program) = sys::fork_sibling().about("clone")? {
            return report_ids(report, [init, program]).map(|()| 0);
        }
    }
    become_program(&confinement, &command.program, &command.arguments, &proc, &report).map(|never| match never {})
}

impl Confinement {
    /// Returns the namespaces to enter before the root is made. Root enters its user namespace after it has become
    /// another user, to whom that namespace then belongs.
    fn at_first(&self) -> UnshareFlags {
        let all = self.namespaces.iter().fold(UnshareFlags::empty(), |all, namespace| all | namespace.flag());
        if self.account.is_some() { all & !UnshareFlags::NEWUSER } else { all }
    }
}

/// What the init of a namespace of process ids does: nothing. The program ends with it, and it is killed after the
/// program has ended.
fn wait_as_init(
    confinement: &Confinement,
    proc: &OwnedFd,
    report: OwnedFd,
    own: Option<sys::Arguments>,
) -> Result<Infallible, Failure> {
    if let Some(account) = &confinement.account {
        become_user(account, false)?;
    }
    limits::set(confinement, proc).about("limits")?;
    limits::drop_privileges(false).about("capabilities")?;
    end_with_parent(&report)?;
    // The program's log.
    for output in [rustix::stdio::dup2_stdout, rustix::stdio::dup2_stderr] {
        output(rustix::stdio::stdin()).about("standard output")?;
    }
    seccomp::restrict().about("seccomp")?;
    // What the program is started with must not appear twice in the list of processes.
    if let Some(own) = own {
        own.forget();
    }
    drop(report);
    loop {
        std::thread::park();
    }
}

/// What remains to be done by the process that becomes the program.
fn become_program(
    confinement: &Confinement,
    program: &Path,
    arguments: &[OsString],
    proc: &OwnedFd,
    report: &OwnedFd,
) -> Result<Infallible, Failure> {
    if confinement.proc && confinement.has(Namespace::Mount) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None).about("/proc")?;
    }
    let ourselves = open_ourselves(confinement, program)?;
    if let Some(account) = &confinement.account {
        become_user(account, confinement.reads_all)?;
        if confinement.has(Namespace::User) {
            unshare(UnshareFlags::NEWUSER, proc)?;
        }
    }
    if confinement.has(Namespace::User) {
        // Fails where /proc/sys is read-only, as in containers. The filter of system calls refuses namespaces as well.
        let _ = limits::write_below(proc, "sys/user/max_user_namespaces", "0");
    }
    limits::set(confinement, proc).about("limits")?;
    limits::drop_privileges(confinement.reads_all).about("capabilities")?;
    // Fails only for the leader of a process group, which is as good.
    let _ = setsid();
    // New credentials have cleared it.
    end_with_parent(report)?;
    if confinement.account.is_some() {
        seccomp::refuse_set_ids().about("seccomp")?;
    }
    if confinement.filters {
        landlock::restrict(confinement).about("Landlock")?;
        seccomp::restrict().about("seccomp")?;
    }
    let opened = ourselves.as_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    let error = Command::new(opened.as_deref().unwrap_or(program)).arg0(program).args(arguments).exec();
    Err(Failure::new(program.display(), error))
}

/// Opens this program, if it is what is to be started as another user in the host's root: that user may have no way to
/// it, for example below `/root`.
fn open_ourselves(confinement: &Confinement, program: &Path) -> Result<Option<OwnedFd>, Failure> {
    let is_own = || std::env::current_exe().is_ok_and(|own| own == program);
    if confinement.account.is_none() || confinement.has(Namespace::Mount) || !is_own() {
        return Ok(None);
    }
    let opened = rustix::fs::open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.map(Some).about(program.display())
}

/// Returns the pipe that is standard input, which is then empty.
fn take_standard_input() -> Result<OwnedFd, Failure> {
    let report = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).about("standard input")?;
    let null = File::open("/dev/null").about("/dev/null")?;
    rustix::stdio::dup2_stdin(null).about("standard input")?;
    Ok(report)
}

/// Asks the kernel to kill this process when its parent ends, and checks that it has not ended yet: then nobody reads
/// from the pipe any more. (In a namespace of process ids of its own, a process cannot tell who its parent is.)
fn end_with_parent(report: &OwnedFd) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).about("prctl(PR_SET_PDEATHSIG)")?;
    let mut fds = [PollFd::from_borrowed_fd(report.as_fd(), PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).about("poll")?;
    if fds[0].revents().contains(PollFlags::ERR) {
        return Err(Failure::new(CONFINE, "the parent has ended"));
    }
    Ok(())
}

/// Returns the host's `/proc`, which a root of its own does not have.
pub(crate) fn open_proc() -> Result<OwnedFd, Failure> {
    openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).about("/proc")
}

fn report_ids(report: OwnedFd, ids: [Pid; 2]) -> Result<(), Failure> {
    let bytes = ids.map(|id| id.as_raw_nonzero().get().to_le_bytes());
    File::from(report).write_all(bytes.as_flattened()).about("the parent")
}

/// Enters new namespaces. In a new user namespace, this process keeps its ids.
fn unshare(namespaces: UnshareFlags, proc: &OwnedFd) -> Result<(), Failure> {
    // Afterwards they are unknown until they are mapped.
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare(namespaces).about("namespaces")?;
    if !namespaces.contains(UnshareFlags::NEWUSER) {
        return Ok(());
    }
    map_one_id(proc, "self", (uid, uid), (gid, gid))
}

/// Gives the user namespace of a process, which `proc` has under the name `process`, one user and one group: the first id
/// of a pair is that inside, the second that outside (`user_namespaces(7)`).
pub(crate) fn map_one_id(proc: &OwnedFd, process: &str, users: (u32, u32), groups: (u32, u32)) -> Result<(), Failure> {
    for (file, text) in [
        // A process without privileges may map a group only after it has given up setgroups(2).
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} {} 1", users.0, users.1)),
        ("gid_map", format!("{} {} 1", groups.0, groups.1)),
    ] {
        let path = format!("{process}/{file}");
        limits::write_below(proc, &path, &text).about(format_args!("/proc/{path}"))?;
    }
    Ok(())
}

fn become_user(account: &Account, reads_all: bool) -> Result<(), Failure> {
    let about = || format!("user {}", account.name);
    let ids = account.groups.iter().chain([&account.gid]);
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<Gid> = ids.copied().map(Gid::from_raw).collect();
    limits::empty_bounding_set(reads_all);
    set_keep_capabilities(reads_all).about("prctl(PR_SET_KEEPCAPS)")?;
    set_thread_groups(&groups).about(about())?;
    set_thread_res_gid(gid, gid, gid).about(about())?;
    set_thread_res_uid(uid, uid, uid).about(about())?;
    // Otherwise the files of this process in /proc would still belong to root.
    set_dumpable_behavior(DumpableBehavior::Dumpable).about("prctl(PR_SET_DUMPABLE)")
}

/// Makes a root with what the confinement lists.
fn show(confinement: &Confinement) -> Result<NewRoot, Failure> {
    let mut root = NewRoot::stage()?;
    // What is shown first may hide nothing that is shown in it.
    let outermost_first = |paths: &[PathBuf]| {
        let mut sorted = paths.to_vec();
        sorted.sort_by_key(|path| path.components().count());
        sorted
    };
    outermost_first(&confinement.readable).iter().try_for_each(|path| root.show(path))?;
    outermost_first(&confinement.writable).iter().try_for_each(|path| root.show_writable(path))?;
    confinement.devices.iter().try_for_each(|path| root.show_device(path))?;
    if confinement.proc {
        root.make_way("/proc".as_ref())?;
    }
    if let Some(directory) = &confinement.directory {
        root.show_writable(directory)?;
    }
    Ok(root)
}
