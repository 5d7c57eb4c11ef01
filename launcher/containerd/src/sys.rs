//! The unsafe call of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// The first descriptor that systemd passes on (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// Returns the socket that systemd has passed to this process, if it has.
pub(crate) fn passed_socket() -> io::Result<Option<UnixListener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) || number("LISTEN_FDS").is_none_or(|count| count == 0) {
        return Ok(None);
    }
    // SAFETY: systemd has opened the descriptor for this process, and this is called once, before anything else could
    // have taken it.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Some(UnixListener::from(socket)))
}
