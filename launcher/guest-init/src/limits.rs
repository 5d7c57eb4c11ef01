//! Watches the limits that a guest can reach, and reports each to the host over the control channel.
//!
//! | limit | seen by |
//! |---|---|
//! | memory | the kernel's log: it names the process that it killed |
//! | open files of all processes | the kernel's log |
//! | a disk that fails | the kernel's log |
//! | bytes and files of what takes the writes to the root | `statfs` |
//! | bytes of `/dev/shm` | `statfs` |
//! | processes and threads | `/proc/loadavg` against `threads-max` and `pid_max` |
//!
//! Limits that have no line in the log are checked every [`TICK`], and whenever a process fails or the machine ends.
//! Each limit is reported once, except that every killed process is reported.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guest_protocol::{MACHINE, Message, Warning};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Guest, missing, writes};

/// How often the limits without a line in the log are checked.
const TICK: Duration = Duration::from_secs(2);

/// Room for one record of the kernel's log (`PRINTK_MESSAGE_MAX`).
const RECORD: usize = 8192;

/// Which limits have been reported already.
static TOLD: [AtomicBool; 6] = [const { AtomicBool::new(false) }; 6];

/// Watches for as long as the guest runs.
pub(crate) fn watch(guest: &Guest) {
    if guest.in_container {
        loop {
            std::thread::sleep(TICK);
            look(guest);
        }
    }
    let log = fs::OpenOptions::new().read(true).custom_flags(NONBLOCK).open("/dev/kmsg");
    let mut log = log.inspect_err(|error| missing::note(format!("/dev/kmsg: {error}"))).ok();
    missing::report(guest);
    loop {
        match &mut log {
            Some(log) => {
                wait_for(log);
                read_log(log, guest);
            }
            None => std::thread::sleep(TICK),
        }
        look(guest);
    }
}

/// `O_NONBLOCK` of Linux on the processors that guests run on.
const NONBLOCK: i32 = 0o4000;

fn wait_for(log: &File) {
    let timeout = Timespec::try_from(TICK).ok();
    // If it was interrupted or timed out, what follows still checks.
    let _ = poll(&mut [PollFd::from_borrowed_fd(log.as_fd(), PollFlags::IN)], timeout.as_ref());
}

/// Reads the records of the log that have not been read yet.
fn read_log(log: &mut File, guest: &Guest) {
    let mut record = vec![0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(0) => return,
            Ok(length) => {
                if let Some(warning) = of_record(&String::from_utf8_lossy(&record[..length])) {
                    match warning {
                        Warning::OpenFilesFull => once(0, || guest.send(MACHINE, Message::Warning(warning))),
                        // The first line names the cause; many may follow.
                        Warning::DiskFailed { .. } => once(5, || guest.send(MACHINE, Message::Warning(warning))),
                        warning => guest.send(MACHINE, Message::Warning(warning)),
                    }
                }
            }
            // Records that were overwritten before they were read.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => return,
        }
    }
}

/// Returns what a record of the log warns of. A record is `PRIORITY,NUMBER,TIME,FLAGS;TEXT`. The priority without its
/// three lowest bits is the facility: 0 for the kernel, which no process can write
/// (`Documentation/ABI/testing/dev-kmsg`).
fn of_record(record: &str) -> Option<Warning> {
    let (prefix, text) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    if priority >> 3 != 0 {
        return None;
    }
    let text = text.lines().next()?;
    if let Some((_, killed)) = text.split_once("ut of memory: Killed process ") {
        let (_, name) = killed.split_once('(')?;
        // A name may contain parentheses; what follows it does not.
        let (name, _) = name.split_once(") total-vm")?;
        return Some(Warning::MemoryRanOut { process: name.to_owned() });
    }
    if text.starts_with("VFS: file-max limit ") {
        return Some(Warning::OpenFilesFull);
    }
    let fails = text.contains("I/O error, dev ") && !OPTIONAL.iter().any(|request| text.contains(request));
    (fails || text.starts_with("EXT4-fs error ")).then(|| Warning::DiskFailed { cause: text.to_owned() })
}

/// Requests that a disk may fail to carry out without a loss, as the log names them: the kernel then writes the zeroes
/// itself, or leaves the space in use. Some hypervisors offer them whatever the host's file system can do (tmpfs cannot
/// zero a range).
const OPTIONAL: [&str; 2] = [":(DISCARD)", ":(WRITE_ZEROES)"];

/// Checks the limits that the log does not show, and reports those that have been reached.
///
/// A container reaches its own limits only; how many threads the host has is none of them.
pub(crate) fn look(guest: &Guest) {
    let tell = |warning| guest.send(MACHINE, Message::Warning(warning));
    if let Some(room) = writes::room() {
        if is_full(room.f_blocks, room.f_bfree) {
            once(1, || tell(Warning::WritesFull { bytes: bytes(&room) }));
        }
        // Some file systems create files for as long as there is room: they report 0 of 0.
        if room.f_files > 0 && room.f_ffree == 0 {
            once(2, || tell(Warning::FilesFull { files: room.f_files }));
        }
    }
    if let Ok(room) = rustix::fs::statfs("/dev/shm")
        && is_full(room.f_blocks, room.f_bfree)
    {
        once(3, || tell(Warning::SharedMemoryFull { bytes: bytes(&room) }));
    }
    if !guest.in_container
        && let Some((threads, most)) = threads()
        && threads.saturating_mul(100) >= most.saturating_mul(98)
    {
        once(4, || tell(Warning::ThreadsFull { threads: most }));
    }
}

fn once(limit: usize, tell: impl FnOnce()) {
    if !TOLD[limit].swap(true, Ordering::Relaxed) {
        tell();
    }
}

/// Returns whether so little is free that hardly anything can be written. That need not be 0: the write that failed may
/// have been larger than what is left.
const fn is_full(blocks: u64, free: u64) -> bool {
    blocks > 0 && (free == 0 || free.saturating_mul(100) < blocks)
}

fn bytes(room: &rustix::fs::StatFs) -> u64 {
    room.f_blocks.saturating_mul(room.f_bsize.unsigned_abs())
}

/// Returns how many processes and threads there are, and how many there can be.
fn threads() -> Option<(u64, u64)> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim_end().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/threads-max")?.min(number("/proc/sys/kernel/pid_max")?);
    Some((in_loadavg(&fs::read_to_string("/proc/loadavg").ok()?)?, most))
}

/// Returns the number of threads in `/proc/loadavg`: the fourth word is `RUNNING/ALL` (proc(5)).
fn in_loadavg(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_lines_are_understood_and_nobody_elses() {
        let killed = "Out of memory: Killed process 71 (a (b)) total-vm:8kB, anon-rss:4kB";
        let expected = Some(Warning::MemoryRanOut { process: "a (b)".into() });
        assert_eq!(of_record(&format!("3,500,1000,-;{killed}\n")), expected);
        assert_eq!(of_record(&format!("3,500,1000,-;Memory cgroup o{}", &killed[1..])), expected);
        // What a process writes to /dev/kmsg has another facility.
        assert_eq!(of_record(&format!("11,500,1000,-;{killed}\n")), None);
        assert_eq!(of_record("4,1,1,-;VFS: file-max limit 100 reached\n"), Some(Warning::OpenFilesFull));
        let cause = "I/O error, dev vda, sector 8 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2";
        assert_eq!(
            of_record(&format!("3,1,1,-;{cause}\n SUBSYSTEM=block\n")),
            Some(Warning::DiskFailed { cause: cause.into() })
        );
        for other in [
            "",
            "x",
            "6,1,1,-;Freeing unused kernel memory\n",
            "3,1,1,-;Out of memory: Killed process 7",
            "3,1,1,-;I/O error, dev vda, sector 9680 op 0x9:(WRITE_ZEROES) flags 0x800 phys_seg 0 prio class 2",
            "3,1,1,-;I/O error, dev vdb, sector 1024 op 0x3:(DISCARD) flags 0x0 phys_seg 1 prio class 2",
        ] {
            assert_eq!(of_record(other), None, "{other}");
        }
    }

    #[test]
    fn full_is_what_has_next_to_nothing_free() {
        for (blocks, free, full) in [(100, 0, true), (100, 1, false), (1000, 9, true), (1000, 10, false), (0, 0, false)]
        {
            assert_eq!(is_full(blocks, free), full, "{free} of {blocks}");
        }
    }

    #[test]
    fn threads_are_counted() {
        assert_eq!(in_loadavg("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(in_loadavg(""), None);
        let (threads, most) = threads().unwrap();
        assert!(threads > 0 && most > threads, "{threads} of {most}");
    }
}
