//! Moves bytes between a process and the control channel, within the windows.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Receiver;

use guest_protocol::Window;
use guest_protocol::{MAX_CHUNK, Message, cost};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Guest;

/// How much a pipe may still hold when the last writer that we wait for has ended: the largest capacity that an
/// ordinary user can set for a pipe (`/proc/sys/fs/pipe-max-size`). Other writers, left in the background, may run
/// forever and are not waited for.
const LEFT_OVER: usize = 1 << 20;

/// The end-of-file character of a terminal in its initial state (`VEOF`, Ctrl-D).
const END_OF_FILE: u8 = 4;

/// Sends what can be read from `source`, until its end, or until it is empty after `ended` has become readable.
pub(crate) fn send_output(
    guest: &Guest,
    stream: u32,
    message: fn(Vec<u8>) -> Message,
    mut source: File,
    window: &Window,
    ended: BorrowedFd<'_>,
) {
    let mut left_over = None;
    let mut buffer = vec![0; MAX_CHUNK];
    while let Some(room) = window.wait(MAX_CHUNK) {
        let room = room.min(left_over.unwrap_or(usize::MAX));
        if room == 0 {
            return;
        }
        let (readable, process_ended) = wait_for(source.as_fd(), ended, left_over.is_some());
        if !readable {
            if left_over.is_some() {
                return;
            }
            if process_ended {
                left_over = Some(LEFT_OVER);
            }
            continue;
        }
        // A terminal that no process has open reports EIO.
        match source.read(&mut buffer[..room]) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                window.spend(count);
                left_over = left_over.map(|left| left - count);
                guest.send(stream, message(buffer[..count].to_vec()));
            }
        }
    }
}

/// Waits until `source` can be read or has ended, or until the process has ended; `at_once` does not wait.
fn wait_for(source: BorrowedFd<'_>, ended: BorrowedFd<'_>, at_once: bool) -> (bool, bool) {
    let mut fds = [PollFd::from_borrowed_fd(source, PollFlags::IN), PollFd::from_borrowed_fd(ended, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, at_once.then_some(&now)) {
        Ok(_) => (!fds[0].revents().is_empty(), !fds[1].revents().is_empty()),
        // Interrupted: the caller asks again.
        Err(_) => (false, false),
    }
}

/// Writes what the host sends into `sink`, and calls `credit` with what each chunk costs once it is written. An empty chunk
/// ends the input: a pipe is closed, a terminal gets its end-of-file character. When the process no longer reads, the
/// thread ends, and the host gets no further credit.
pub(crate) fn receive_input(chunks: &Receiver<Vec<u8>>, mut sink: File, terminal: bool, credit: impl Fn(u32)) {
    while let Ok(chunk) = chunks.recv() {
        if chunk.is_empty() {
            if terminal {
                let _ = sink.write_all(&[END_OF_FILE]);
            }
            return;
        }
        if sink.write_all(&chunk).is_err() {
            return;
        }
        credit(cost(chunk.len()));
    }
}
