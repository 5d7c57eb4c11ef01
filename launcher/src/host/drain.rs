//! Reads a pipe that others may hold open longer than the process whose output it carries.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};

/// How many bytes are read once the process has ended: what a pipe can hold (`/proc/sys/fs/pipe-max-size`). Another
/// process may go on writing.
const LEFT_OVER: usize = 1 << 20;

/// Passes what is written to `source`, which must not block, to `take`, until all writers have closed it, or until it is
/// empty after `ended` has become readable.
pub(crate) fn drain(mut source: &File, ended: BorrowedFd<'_>, mut take: impl FnMut(&[u8])) {
    let (mut buffer, mut left) = (vec![0; 16 << 10], None);
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                take(&buffer[..count]);
                left = left.map(|left: usize| left.saturating_sub(count));
                if left == Some(0) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && left.is_none() => {
                let mut fds = [source.as_fd(), ended].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                let _ = poll(&mut fds, None);
                if !fds[1].revents().is_empty() {
                    left = Some(LEFT_OVER);
                }
            }
            Err(_) => return,
        }
    }
}
