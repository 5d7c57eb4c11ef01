//! The unsafe calls of this crate, each with the reason why it is sound.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mm::{Advice, madvise};
use rustix::mount::MountFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Enters new namespaces of the given kinds. The process must have one thread.
pub(crate) fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: no kind of namespace makes threads differ in their file descriptors.
    unsafe { rustix::thread::unshare_unsafe(namespaces & !UnshareFlags::FILES) }
}

/// Forks this process. The copy is a child of this process's parent. Returns the copy's id, and `None` in the copy. The
/// process must have one thread.
pub(crate) fn fork_sibling() -> io::Result<Option<Pid>> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and a stack this is fork(2). There is no other thread that could hold a lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Where the arguments of this process are in its memory, as the list of processes shows them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    start: usize,
    length: usize,
}

impl Arguments {
    /// Finds them in `/proc`.
    pub(crate) fn find() -> Option<Self> {
        // proc_pid_stat(5): fields 48 and 49 are arg_start and arg_end. The fields from 3 on follow the name's ")".
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(45);
        let (start, end) = (fields.next()?.parse::<usize>().ok()?, fields.next()?.parse::<usize>().ok()?);
        Some(Self { start, length: end.checked_sub(start)? })
    }

    /// Overwrites them with zeros. The process has one thread, and must not read its arguments again.
    pub(crate) fn forget(self) {
        let first = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the kernel has put the arguments there, on the stack of the first thread, where they stay and can be
        // written. Nothing refers to them: the standard library copies them when they are asked for.
        unsafe { std::ptr::write_bytes(first, 0, self.length) };
    }
}

/// Makes the kernel kill the process that `command` starts when the calling thread ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let ask = || Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?);
    // SAFETY: it makes one system call; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// Mounts `/proc` in the process that `command` starts, for the namespaces of that process.
pub(crate) fn mount_proc(command: &mut Command) {
    let mount = || {
        let hardened = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        Ok(rustix::mount::mount(c"proc", c"/proc", c"proc", hardened, None)?)
    };
    // SAFETY: it makes one system call; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(mount) };
}

/// The number of the first descriptor that a program inherits besides its standard streams.
const FIRST_INHERITED: RawFd = 3;

/// A number above all descriptors that a program inherits from this process.
const ABOVE_INHERITED: RawFd = 64;

/// Moves a descriptor above those that a program inherits.
#[expect(clippy::needless_pass_by_value, reason = "the old number is free afterwards")]
pub(crate) fn above_inherited(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(&descriptor, ABOVE_INHERITED)?)
}

/// Gives descriptors the numbers from 3 on, in their order, which programs that this process starts then inherit.
///
/// The caller must have no other descriptor below 64, besides the standard streams and those that it passes here.
pub(crate) fn inheritable(descriptors: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let moved: Vec<OwnedFd> = descriptors.into_iter().map(above_inherited).collect::<io::Result<_>>()?;
    let mut placed = Vec::new();
    for (number, descriptor) in (FIRST_INHERITED..).zip(moved) {
        // SAFETY: no descriptor of this process has the number, as the caller promises, and the value that stands for it
        // is given up again unless the call succeeds.
        let mut target = unsafe { OwnedFd::from_raw_fd(number) };
        match rustix::io::dup2(&descriptor, &mut target) {
            Ok(()) => placed.push(target),
            Err(error) => {
                let _ = target.into_raw_fd();
                return Err(error.into());
            }
        }
        debug_assert_eq!(placed.last().map(AsRawFd::as_raw_fd), Some(number));
    }
    Ok(placed)
}

/// Releases the pages of programs and libraries in this process's memory. Most of them were needed to start a machine,
/// and are not needed to supervise it. Those that are needed are read from the page cache again when they are used.
pub(crate) fn let_go_of_programs() {
    for Pages { start, length } in unchanged(&fs::read_to_string("/proc/self/smaps").unwrap_or_default()) {
        // SAFETY: they are private, cannot be written, and do not differ from their file, so each is read from the file
        // again unchanged. Only the dynamic linker could make one of them writable, while it loads a library, and
        // nothing here loads one.
        let _ = unsafe { madvise(std::ptr::without_provenance_mut(start), length, Advice::LinuxDontNeed) };
    }
}

/// A range of pages in memory.
#[derive(Debug, PartialEq, Eq)]
struct Pages {
    start: usize,
    length: usize,
}

/// Returns the mappings in `smaps` (proc_pid_smaps(5)) that are of a file, private and not writable, and that have no
/// page that differs from the file. Relocated mappings have such pages, although they are no longer writable.
fn unchanged(smaps: &str) -> Vec<Pages> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Anonymous" | "Swap", size)) if size.trim() != "0 kB" => candidate = None,
            // The last line of each mapping.
            Some(("VmFlags", _)) => found.extend(candidate.take()),
            // Such as `55d0c8a00000-55d0c8e68000 r-xp 00468000 fe:00 1234   /usr/bin/lamina`: times have colons too.
            _ if line.starts_with(|first: char| first.is_ascii_digit() || ('a'..='f').contains(&first)) => {
                candidate = of_a_file(line);
            }
            _ => {}
        }
    }
    found
}

fn of_a_file(line: &str) -> Option<Pages> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let rights = words.next()?;
    let path = words.nth(3)?;
    let wanted = matches!(rights, "r--p" | "r-xp") && path.starts_with('/');
    wanted.then_some(Pages { start, length: end.checked_sub(start)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_its_file_as_it_is_in_memory_is_let_go() {
        let mapping = |rights: &str, path: &str, anonymous: u32, swap: u32| {
            format!(
                "1000-3000 {rights} 00000000 fe:00 7    {path}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {anonymous} kB\n\
                Swap: {swap} kB\nVmFlags: rd mr mw me\n"
            )
        };
        let pages = || Pages { start: 0x1000, length: 0x2000 };
        for (rights, path, anonymous, swap, expected) in [
            ("r-xp", "/usr/bin/lamina", 0, 0, vec![pages()]),
            ("r--p", "/usr/bin/lamina", 0, 0, vec![pages()]),
            ("r--p", "/usr/bin/lamina", 4, 0, vec![]),
            ("r--p", "/usr/bin/lamina", 0, 4, vec![]),
            ("rw-p", "/usr/bin/lamina", 0, 0, vec![]),
            ("r--s", "/store/index", 0, 0, vec![]),
            ("r--p", "", 0, 0, vec![]),
            ("r-xp", "[vdso]", 0, 0, vec![]),
        ] {
            assert_eq!(unchanged(&mapping(rights, path, anonymous, swap)), expected, "{rights} {path}");
        }
        let both = mapping("rw-p", "/a", 0, 0) + &mapping("r-xp", "/a", 0, 0);
        assert_eq!(unchanged(&both), [pages()]);
    }

    /// Calls functions through tables that the dynamic linker has relocated.
    fn relocated() -> Vec<String> {
        let values: [&dyn std::fmt::Display; 4] = [&1_u8, &"two", &'3', &4.5_f64];
        values.iter().map(ToString::to_string).collect()
    }

    fn resident() -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(2).unwrap().parse().unwrap()
    }

    #[test]
    fn program_runs_on_after_it_has_let_go() {
        // All of the program has been read, and most of it is not needed.
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let text = smaps.lines().find(|line| line.contains(" r-xp ")).and_then(of_a_file).unwrap();
        assert!(unchanged(&smaps).contains(&text));
        let before = (relocated(), resident());
        for _ in 0..3 {
            let_go_of_programs();
            assert_eq!(relocated(), before.0);
        }
        assert!(resident() < before.1, "{} of {} pages", resident(), before.1);
    }
}
