//! `INIT`: which features are used.

use super::MAX_PAGES;
use crate::reply::Reply;
use crate::report;
use crate::request::Request;
use crate::stats::Stats;
use crate::wire::{InitFlags, InitIn, InitOut, KERNEL_MINOR, KERNEL_VERSION, Opcode};
use rustix::io::Errno;

/// Requests in flight that nobody waits for. The kernel's default of 12 throttles the read-ahead of four readers.
const MAX_BACKGROUND: u16 = 128;

/// Three quarters of [`MAX_BACKGROUND`], the kernel's own proportion.
const CONGESTION_THRESHOLD: u16 = MAX_BACKGROUND / 4 * 3;

/// Nothing is ever written; the kernel takes 4096 as the least.
const MAX_WRITE: u32 = 4096;

/// What is used where it is offered. Left out on purpose: `AUTO_INVAL_DATA` (content never changes),
/// `READDIRPLUS_AUTO` (would send `LOOKUP`s), `WRITEBACK_CACHE`, `HANDLE_KILLPRIV` and `POSIX_ACL` (ACLs are
/// served as the extended attributes that they are).
const WANTED: InitFlags = InitFlags::ASYNC_READ
    .with(InitFlags::EXPORT_SUPPORT)
    .with(InitFlags::DO_READDIRPLUS)
    .with(InitFlags::NO_OPEN_SUPPORT)
    .with(InitFlags::PARALLEL_DIROPS)
    .with(InitFlags::ABORT_ERROR)
    .with(InitFlags::MAX_PAGES)
    .with(InitFlags::CACHE_SYMLINKS)
    .with(InitFlags::NO_OPENDIR_SUPPORT);

/// Without these the kernel would ask for every open, and get nowhere with the answer.
const NEEDED: InitFlags = InitFlags::NO_OPEN_SUPPORT.with(InitFlags::NO_OPENDIR_SUPPORT);

/// Agrees on a version and on features. `EPROTO` for a kernel older than 7.31 or without message-free opens.
pub(super) fn answer(stats: &Stats, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
    let (offer, _) = request.structure::<InitIn>()?;
    if offer.major > KERNEL_VERSION {
        // The protocol: name the version you speak, and the kernel asks again in that one.
        return reply.put_structure(&InitOut { major: KERNEL_VERSION, minor: KERNEL_MINOR, ..InitOut::default() });
    }
    let flags = WANTED.within(offer.flags);
    if offer.major < KERNEL_VERSION || offer.minor < KERNEL_MINOR || !flags.contains(NEEDED) {
        // A guest can shake hands as often as it likes.
        report(stats.errors(Opcode::Init), "a refused handshake", || {
            tracing::error!(
                "the kernel speaks FUSE {}.{} with flags {:#x}; 7.{KERNEL_MINOR} (Linux 5.4) or later is needed",
                offer.major,
                offer.minor,
                offer.flags
            );
        });
        return Err(Errno::PROTO);
    }
    reply.put_structure(&InitOut {
        major: KERNEL_VERSION,
        minor: KERNEL_MINOR,
        max_readahead: offer.max_readahead,
        flags: flags.0,
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: MAX_PAGES,
        ..InitOut::default()
    })
}
