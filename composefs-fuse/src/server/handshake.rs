//! `INIT`: the version and the features that are used.

use super::MAX_PAGES;
use super::fault::report;
use crate::reply::Reply;
use crate::request::FuseRequest;
use crate::stats::Stats;
use crate::wire::{InitFlags, InitIn, InitOut, KERNEL_MINOR, KERNEL_VERSION, Opcode};
use rustix::io::Errno;

/// How many requests that no process waits for may be in flight. The kernel's default of 12 throttles the read-ahead of
/// four readers.
const MAX_BACKGROUND: u16 = 128;

/// Three quarters of [`MAX_BACKGROUND`], as in the kernel.
const CONGESTION_THRESHOLD: u16 = MAX_BACKGROUND / 4 * 3;

/// Nothing is ever written. 4096 is the least that the kernel accepts.
const MAX_WRITE: u32 = 4096;

/// The features that are used if the kernel offers them. Left out on purpose: `AUTO_INVAL_DATA` (content never
/// changes), `READDIRPLUS_AUTO` (would send `LOOKUP`s), `WRITEBACK_CACHE`, `HANDLE_KILLPRIV` and, but in some user
/// namespaces, `POSIX_ACL` (ACLs are served as plain extended attributes).
const WANTED: InitFlags = InitFlags::ASYNC_READ
    .with(InitFlags::EXPORT_SUPPORT)
    .with(InitFlags::DO_READDIRPLUS)
    .with(InitFlags::NO_OPEN_SUPPORT)
    .with(InitFlags::PARALLEL_DIROPS)
    .with(InitFlags::ABORT_ERROR)
    .with(InitFlags::MAX_PAGES)
    .with(InitFlags::CACHE_SYMLINKS)
    .with(InitFlags::NO_OPENDIR_SUPPORT);

/// Without these the kernel would send a message for every open, and the answer would make the open fail.
const NEEDED: InitFlags = InitFlags::NO_OPEN_SUPPORT.with(InitFlags::NO_OPENDIR_SUPPORT);

/// Agrees on a version and on features, `also` among them if the kernel offers it. Fails with `EPROTO` for a kernel older than 7.31 or without message-free opens.
pub(super) fn answer(
    stats: &Stats,
    also: InitFlags,
    request: &FuseRequest<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Errno> {
    let (offer, _) = request.structure::<InitIn>()?;
    if offer.major > KERNEL_VERSION {
        // The kernel asks again in the version that the answer names.
        return reply.put_structure(&InitOut { major: KERNEL_VERSION, minor: KERNEL_MINOR, ..InitOut::default() });
    }
    let flags = WANTED.with(also).within(offer.flags);
    if offer.major < KERNEL_VERSION || offer.minor < KERNEL_MINOR || !flags.contains(NEEDED) {
        // A guest can try this as often as it likes.
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
