//! What a program leaves behind: processes, mounts, sockets, temporary files.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use test_support::polling::{PATIENCE, PAUSE};

/// The variable that marks every process of a session: children inherit it, including those that became daemons.
pub const MARK: &str = "LAMINA_TEST_SESSION";

/// A process that belongs to a session.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its command line, arguments separated by spaces.
    pub command: String,
}

/// Where one session may leave traces.
#[derive(Debug, Clone)]
pub struct Traces {
    /// The directory that holds everything the session writes; its path is also its mark.
    pub directory: PathBuf,
}

impl Traces {
    /// Every process that carries the session's mark in its environment or names its directory on its command line.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mark = format!("{MARK}={}", self.directory.display()).into_bytes();
        let path = self.directory.as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc can be listed").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            // A process that ends meanwhile and a zombie have neither, and do not count.
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
            if marked || command.windows(path.len()).any(|part| part == path) {
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                found.push(Process { pid, command: command.trim_end().to_owned() });
            }
        }
        found
    }

    /// Every mount point below the directory.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo can be read");
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|point| point.starts_with(&self.directory))
            .collect()
    }

    /// Every socket, and everything in the directories for temporary files.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        // Listing fails below a mount or a closed directory; mounts are counted on their own.
        let _ = walk(&self.directory, &mut |path, entry| {
            let temporary = ["tmp", "store/tmp", "run", "state/lamina/machines"]
                .iter()
                .any(|name| path.parent() == Some(&self.directory.join(name)));
            if temporary && !is_empty_tree(path) || entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                found.push(path.to_owned());
            }
        });
        found
    }

    /// Panics unless nothing is left: no process, mount, socket or temporary file.
    ///
    /// # Panics
    /// When something is still there after [`PATIENCE`].
    pub fn assert_nothing_left(&self) {
        let begin = Instant::now();
        loop {
            let (processes, mounts, files) = (self.processes(), self.mounts(), self.files());
            if processes.is_empty() && mounts.is_empty() && files.is_empty() {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "left behind: processes {processes:?}, mounts {mounts:?}, sockets and temporary files {files:?}"
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends what is left, so that a failed test does not disturb the next one.
    pub fn sweep(&self) {
        for process in self.processes() {
            let _ = kill_process(process.pid, Signal::KILL);
        }
        for point in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Directories alone do not count: a program may keep its state directory for the next time.
fn is_empty_tree(path: &Path) -> bool {
    if !path.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
        return false;
    }
    let mut empty = true;
    let walked = walk(path, &mut |_, entry| empty &= entry.file_type().is_ok_and(|kind| kind.is_dir()));
    walked.is_ok() && empty
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, &std::fs::DirEntry)) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        visit(&entry.path(), &entry);
        if entry.file_type()?.is_dir() {
            let _ = walk(&entry.path(), visit);
        }
    }
    Ok(())
}
