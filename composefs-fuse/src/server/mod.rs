//! One request in, at most one reply out: the FUSE protocol for a tree that never changes, without any I/O.
//!
//! The policy is that of a tree whose every answer stays true (`fs/fuse/` of the kernel says what follows from it):
//!
//! * Names, attributes and missing names hold for [`CACHE_SECONDS`], so nothing is asked twice.
//! * `OPEN` and `OPENDIR` answer `ENOSYS`. From then on the kernel opens files without a message, keeps their pages
//!   from one opening to the next, and caches whole listings. (Linux treats this as a property of the connection.)
//! * Listings carry attributes always (`DO_READDIRPLUS` without `READDIRPLUS_AUTO`), so no `LOOKUP` follows a listing.
//! * Nothing is kept per inode: a number is all it takes, `FORGET` means nothing, and file handles outlive caches.
//! * Requests that a read-only tree has no use for are answered with `ENOSYS` once and not sent again. `INTERRUPT` is
//!   one of them: no answer takes long enough to interrupt, and the kernel then stops sending it (`no_interrupt` in
//!   `fs/fuse/dev.c`). Requests that would change the tree are answered with `EROFS`, and an `IOCTL` with `ENOTTY`.
//! * `LISTXATTR` is always answered truthfully, because `ENOSYS` makes every `listxattr(2)` fail. `GETXATTR` answers
//!   `ENOSYS` if no inode of the tree has an extended attribute; the kernel then fails it with `EOPNOTSUPP`.

mod directory;
mod fault;
mod handshake;
mod inode;
mod xattr;

use crate::reply::Reply;
use crate::request::Request;
use crate::stats::{Message, Stats};
use crate::wire::{InHeader, Opcode, OutHeader};
use layer_store::View;
use rustix::io::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Seconds for which a name, an attribute or the lack of a name may be cached: eleven days.
///
/// "For ever" would be truer; a number of seconds that some kernel multiplies and overflows would not.
pub const CACHE_SECONDS: u64 = 1_000_000;

/// Pages in one request, as asked in the handshake: 1 MiB, the most that Linux grants unless told otherwise
/// (`fs.fuse.max_pages_limit`).
const MAX_PAGES: u16 = 256;

/// Bytes that a reply can take at most.
pub const MAX_REPLY: usize = OutHeader::SIZE + MAX_PAGES as usize * 4096;

/// Bytes of the largest request that means anything to a read-only tree: an extended attribute of 64 KiB
/// (`XATTR_SIZE_MAX`) that is not going to be set, and the structures in front of it.
///
/// Above `FUSE_MIN_READ_BUFFER` (8 KiB), the least that a kernel accepts as the buffer of a `read`.
pub const MAX_REQUEST: usize = 64 * 1024 + 4096;

const _: () = assert!(MAX_REQUEST > 8192 + InHeader::SIZE);

/// Answers FUSE requests from a view. Shared by any number of threads and connections; takes no lock.
#[derive(Debug)]
pub struct Server {
    view: Arc<View>,
    stats: Arc<Stats>,
    unsupported_xattrs: Vec<&'static [u8]>,
}

impl Server {
    /// A server of `view` with all counters at zero.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        let unsupported_xattrs = xattr::unsupported(&view);
        Self { view, stats: Arc::new(Stats::new()), unsupported_xattrs }
    }

    /// What was asked so far.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Answers one request.
    ///
    /// `request` is the whole message, header first. The reply, header first, is written to the front of `reply`,
    /// whose length is how much the asker can take: [`MAX_REPLY`] always suffices. Content is read straight into it.
    ///
    /// Returns the bytes of the reply. 0 means that there is none to send: for requests that want none, and for those
    /// too mangled to answer. Nothing in `request` makes this panic or loop.
    pub fn handle(&self, request: &[u8], reply: &mut [u8]) -> usize {
        let started = Instant::now();
        let (Some(parsed), Some(mut body)) = (Request::parse(request), Reply::new(reply)) else {
            return self.handle_without_reply(request, started);
        };
        let opcode = Opcode::from_raw(parsed.header.opcode);
        let outcome = self.guarded(|| self.answer(opcode, &parsed, &mut body));
        let content = if opcode == Some(Opcode::Read) { body.body_length() } else { 0 };
        let sent =
            if opcode.is_some_and(Opcode::wants_no_reply) { 0 } else { body.finish(parsed.header.unique, outcome) };
        self.stats.record(&Message {
            opcode,
            failed: outcome.is_err(),
            received: request.len(),
            sent,
            content: if outcome.is_ok() { content } else { 0 },
            elapsed: started.elapsed(),
        });
        sent
    }

    /// Counts a request that came without room for a reply: a `FORGET` over virtio, or nonsense.
    fn handle_without_reply(&self, request: &[u8], started: Instant) -> usize {
        let opcode = Request::parse(request).and_then(|parsed| Opcode::from_raw(parsed.header.opcode));
        match opcode {
            Some(opcode) if opcode.wants_no_reply() => self.stats.record(&Message {
                opcode: Some(opcode),
                failed: false,
                received: request.len(),
                sent: 0,
                content: 0,
                elapsed: started.elapsed(),
            }),
            _ => self.stats.record_malformed(),
        }
        0
    }

    /// Runs `answer`; a panic in it costs that request alone. (The panic hook has said where.)
    fn guarded(&self, answer: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
            self.stats.record_panic();
            Err(Errno::IO)
        })
    }

    fn answer(&self, opcode: Option<Opcode>, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let Some(opcode) = opcode else { return Err(Errno::NOSYS) };
        match opcode {
            Opcode::Init => handshake::answer(&self.stats, request, reply),
            Opcode::Destroy | Opcode::Forget | Opcode::BatchForget | Opcode::NotifyReply => Ok(()),
            Opcode::Lookup => self.lookup(request, reply),
            Opcode::Getattr => self.getattr(request, reply),
            Opcode::Readlink => self.readlink(request, reply),
            Opcode::Read => self.read(request, reply),
            Opcode::Readdir => self.readdir(request, reply),
            Opcode::Readdirplus => self.readdirplus(request, reply),
            Opcode::Statfs => self.statfs(reply),
            Opcode::Getxattr => self.getxattr(request, reply),
            Opcode::Listxattr => self.listxattr(request, reply),
            // Overlayfs asks a lower file for its inode flags when it copies the file up, and Linux 5.13 to 6.16 take
            // ENOSYS for a failure (`ovl_copy_fileattr`). ENOTTY says that there are none.
            Opcode::Ioctl => Err(Errno::NOTTY),
            changing if changing.changes_the_tree() => Err(Errno::ROFS),
            _ => Err(Errno::NOSYS),
        }
    }
}

#[cfg(test)]
mod tests;
