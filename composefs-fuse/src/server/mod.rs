//! One request in, at most one reply out: the FUSE protocol for a tree that never changes, without any I/O.
//!
//! Every answer stays true, so the policy is this (the kernel's `fs/fuse/` shows what follows from it):
//!
//! * Names, attributes and missing names are valid for [`CACHE_SECONDS`], so the kernel asks for nothing twice.
//! * `OPEN` and `OPENDIR` are answered with `ENOSYS`. From then on the kernel opens files without a message, keeps
//!   their pages from one open to the next, and caches whole listings. (For Linux this is a property of the
//!   connection.)
//! * Listings always carry attributes (`DO_READDIRPLUS` without `READDIRPLUS_AUTO`), so no `LOOKUP` follows a listing.
//! * There is no state for an inode: its number is enough, `FORGET` has no effect, and file handles outlive caches.
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

pub use fault::report;

use crate::reply::Reply;
use crate::request::FuseRequest;
use crate::stats::{Message, Stats};
use crate::wire::{InHeader, InitFlags, Opcode, OutHeader};
use layer_store::{Ino, View};
use rustix::io::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Seconds for which a name, an attribute or the absence of a name may be cached: eleven days.
///
/// The answers are valid for longer, but some kernels multiply the seconds, and a larger number could overflow.
pub const CACHE_SECONDS: u64 = 1_000_000;

/// The pages of one request that the handshake asks for: 1 MiB, which is the most that Linux grants by default
/// (`fs.fuse.max_pages_limit`).
const MAX_PAGES: u16 = 256;

/// The most bytes of a reply.
pub const MAX_REPLY: usize = OutHeader::SIZE + MAX_PAGES as usize * 4096;

/// The most bytes of a request to a read-only tree: an extended attribute of 64 KiB (`XATTR_SIZE_MAX`), which will not
/// be set, and the structures before it.
///
/// This is more than `FUSE_MIN_READ_BUFFER` (8 KiB), the smallest buffer that a kernel accepts for a `read`.
pub const MAX_REQUEST: usize = 64 * 1024 + 4096;

const _: () = assert!(MAX_REQUEST > 8192 + InHeader::SIZE);

/// Answers FUSE requests from a view. Any number of threads and connections can share it, without a lock.
#[derive(Debug)]
pub struct Server {
    view: Arc<View>,
    stats: Arc<Stats>,
    unsupported_xattrs: Vec<&'static [u8]>,
    /// Set if it is mounted in a user namespace.
    namespace: Option<UserNamespace>,
}

/// A user namespace in which a view is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserNamespace {
    /// It has no ids but root's, so every file belongs to user 0 and group 0. The kernel would show the other owners as
    /// the overflow ids, and refuse to change such files.
    pub only_root: bool,
    /// fuse-overlayfs shows it, with layers that are written to above it. Then every `GETXATTR` is answered, also in a tree
    /// without extended attributes and for access control lists: fuse-overlayfs passes `EOPNOTSUPP` on, and the kernel then
    /// refuses to open the file. And inodes have numbers of at least 2^62, because fuse-overlayfs shows the numbers of all its
    /// layers as they are, and two directories of the same number look like a loop.
    pub below_fuse_overlayfs: bool,
}

impl Server {
    /// Creates a server of `view` with all counters at zero.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        let unsupported_xattrs = xattr::unsupported(&view);
        Self { view, stats: Arc::new(Stats::new()), unsupported_xattrs, namespace: None }
    }

    /// Serves a mount that is made in a user namespace. The kernel reads the owners there as those of the namespace.
    #[must_use]
    pub fn in_user_namespace(self, namespace: UserNamespace) -> Self {
        let unsupported_xattrs = if namespace.below_fuse_overlayfs { Vec::new() } else { self.unsupported_xattrs };
        Self { unsupported_xattrs, namespace: Some(namespace), ..self }
    }

    /// Returns the number that `st_ino` shows.
    fn shown_number(&self, ino: Ino) -> u64 {
        let below = self.namespace.is_some_and(|namespace| namespace.below_fuse_overlayfs);
        if below { ino.get() | 1 << 62 } else { ino.get() }
    }

    /// Without `POSIX_ACL` the kernel answers for access control lists of a mount in a user namespace with `EOPNOTSUPP` itself
    /// (`fuse_no_acl` in `fs/fuse/fuse_i.h`).
    fn further_features(&self) -> InitFlags {
        if self.namespace.is_some_and(|namespace| namespace.below_fuse_overlayfs) {
            InitFlags::POSIX_ACL
        } else {
            InitFlags(0)
        }
    }

    /// Returns the counters of what was asked so far.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Answers one request.
    ///
    /// `request` is the whole message, header first. The reply, header first, is written to the beginning of `reply`,
    /// whose length is how much the sender can take: [`MAX_REPLY`] always suffices. Content is read straight into it.
    ///
    /// Returns the length of the reply. It is 0 if no reply is sent: for requests that need none, and for requests
    /// too malformed to answer. Nothing in `request` makes this panic or loop.
    pub fn handle(&self, request: &[u8], reply: &mut [u8]) -> usize {
        let started = Instant::now();
        let (Some(parsed), Some(mut body)) = (FuseRequest::parse(request), Reply::new(reply)) else {
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

    /// Counts a request that came without room for a reply: a `FORGET` over virtio, or a malformed one.
    fn handle_without_reply(&self, request: &[u8], started: Instant) -> usize {
        let opcode = FuseRequest::parse(request).and_then(|parsed| Opcode::from_raw(parsed.header.opcode));
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

    /// Runs `answer`. A panic in it fails only this request. (The panic hook has reported where.)
    fn guarded(&self, answer: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
            self.stats.record_panic();
            Err(Errno::IO)
        })
    }

    fn answer(&self, opcode: Option<Opcode>, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let Some(opcode) = opcode else { return Err(Errno::NOSYS) };
        match opcode {
            Opcode::Init => handshake::answer(&self.stats, self.further_features(), request, reply),
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
            // ENOSYS for a failure (`ovl_copy_fileattr`). ENOTTY says that it has no flags.
            Opcode::Ioctl => Err(Errno::NOTTY),
            changing if changing.changes_the_tree() => Err(Errno::ROFS),
            _ => Err(Errno::NOSYS),
        }
    }
}

#[cfg(test)]
mod tests;
