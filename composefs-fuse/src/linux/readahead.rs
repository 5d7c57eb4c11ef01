//! Reading ahead further than the kernel does by itself.

use std::io;

/// Kilobytes that a mount of root's reads ahead: what one request carries ([`crate::MAX_REPLY`]).
const KILOBYTES: u32 = 1024;

/// Raises the read-ahead of FUSE connection `connection`, of which the kernel allows 128 KiB unless root says otherwise
/// (`VM_READAHEAD_PAGES`; the handshake can only lower it).
///
/// # Errors
/// Where this process may not write to `/sys`: it reads ahead less then, and all else is the same.
pub(super) fn raise(connection: u32) -> io::Result<()> {
    // A file system without a device has major number 0.
    std::fs::write(format!("/sys/class/bdi/0:{connection}/read_ahead_kb"), KILOBYTES.to_string())
}
