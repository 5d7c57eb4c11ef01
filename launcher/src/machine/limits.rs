//! The limits that the user of a machine can reach, and where each is noticed.
//!
//! | limit | noticed by | reported as | raised by |
//! |---|---|---|---|
//! | bytes of the guest's writes | init, over the control channel | warning | `--tmpfs-size`, `--keep=SIZE` |
//! | files of the guest's writes | init | warning | `--tmpfs-size`, `--keep=SIZE` |
//! | memory of the guest | init, from its kernel's messages | warning | `--memory` |
//! | `/dev/shm` | init | warning | `--memory` |
//! | processes and threads of the guest | init | warning | `--memory` |
//! | open files of the guest | init | warning | `--memory` |
//! | open files of a share's server | [`short_of_files`], every second | warning | `ulimit -n` of the host |
//! | room on the host's disk for the machine's disk | the engine | warning, [`disk_failed`] | room on the host |
//! | room on the host's disk for `output.log` | the log's writer | warning in `lamina.log`, output is lost | room on the host |
//! | room on the host's disk for a share | the program in the guest: `ENOSPC` | by that program | room on the host |
//! | memory of the host | check before the start, which refuses `--memory` | failure | `--memory` |
//! | shares, disks and network cards | check before the start | failure | one share instead of several |
//! | size of `output.log` and of `console.log` | their writers: the oldest lines are discarded | nothing | `--log-max-size` |
//! | size of other logs of a machine, 1 MiB each | their writers: the oldest lines are discarded | nothing | nothing |
//! | warnings of a guest, 64 in the record | [`Directory`](super::Directory) | nothing | nothing |
//! | connections of published ports, 512 over TCP | [`super::ports`]: further clients wait | nothing | nothing |
//! | size of a secret | check before the start | failure | a share |
//!
//! Warnings are in `lamina inspect`, `lamina ps --json` and the machine's record. A guest can only warn about itself,
//! and only over the control channel, which only its init can use. What it writes to its console is never read for
//! this.

use std::fs;
use std::path::Path;

use rustix::process::Pid;

/// Returns the warning about a disk of the machine that fails on this host.
pub(super) fn disk_failed(disk: &Path, cause: &str) -> String {
    format!("its disk {} fails on this host, and so do the guest's writes: {cause}", disk.display())
}

/// Returns the limit of open files of the process `pid`, or of one that it has started, if that process has nearly
/// reached it. Programs in the guest then see "Too many open files in system".
pub(super) fn short_of_files(pid: Pid) -> Option<u64> {
    let pid = pid.as_raw_nonzero().to_string();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().chain([pid.as_str()]).find_map(|pid| {
        let limit = open_file_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // The size of the table, which the kernel doubles when it is full. The files need to be counted only if the
        // table is large enough.
        let size: u64 = status.lines().find_map(|line| line.strip_prefix("FDSize:"))?.trim().parse().ok()?;
        if size < limit / 2 {
            return None;
        }
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        is_short(open, limit).then_some(limit)
    })
}

/// A server keeps some files for itself, see `share_server`.
const fn is_short(open: u64, limit: u64) -> bool {
    open.saturating_add(limit / 20) >= limit.saturating_sub(share_server::OWN_OPEN_FILES)
}

/// Returns the soft limit in the text of `/proc/PID/limits`.
fn open_file_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_nearly_all_files_open_is_noticed_and_another_is_not() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax processes  1  2  processes\nMax open files            1024   4096   files\n";
        assert_eq!(open_file_limit(text), Some(1024));
        assert_eq!(open_file_limit("Max open files  unlimited  unlimited  files\n"), None);
        assert!(
            !is_short(100, 20_000) && !is_short(18_000, 20_000) && is_short(18_500, 20_000) && is_short(20_000, 20_000)
        );
        assert_eq!(short_of_files(rustix::process::getpid()), None);
    }
}
