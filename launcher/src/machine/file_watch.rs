//! Waits for a file to grow, without polling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

/// Notices when a file has been written to.
#[derive(Debug)]
pub(crate) struct FileWatch(OwnedFd);

impl FileWatch {
    /// Watches `path`, which must exist: a file, or the files in a directory.
    ///
    /// # Errors
    /// The file does not exist, or the host allows no more watches.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        add_watch(&inotify, path, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE)?;
        Ok(Self(inotify))
    }

    /// Waits until the file has been written to since the last wait, or `other` (such as a process) is readable, but at
    /// most `most`.
    pub(crate) fn wait(&self, other: Option<BorrowedFd<'_>>, most: Option<Duration>) {
        let mut fds: Vec<PollFd<'_>> = [Some(self.0.as_fd()), other]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        // If it was interrupted, the caller checks once more than necessary.
        let _ = poll(&mut fds, most.as_ref());
        let mut told = [0; 4096];
        while rustix::io::read(&self.0, &mut told).is_ok_and(|count| count > 0) {}
    }
}
