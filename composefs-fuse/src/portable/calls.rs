//! The calls of `fuser`, each answered by [`Server`].

use super::answer::{Answer, attributes, file_type};
use crate::server::{CACHE_SECONDS, MAX_REPLY, Server};
use crate::stats::Message;
use crate::wire::{AttrOut, EntryOut, GetxattrIn, GetxattrOut, Opcode, OutHeader, ReadIn, Statfs};
use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyXattr, Request,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

/// For how long names and attributes are valid.
const VALID: Duration = Duration::from_secs(CACHE_SECONDS);

/// Bytes of a listing that the server is asked for at once. `fuser` does not say how many the kernel has room for.
const LISTING: u32 = 16 * 1024;

/// How many requests that no process waits for may be in flight: enough for the read-ahead of four readers.
const MAX_BACKGROUND: u16 = 128;

/// The bytes of content that fit into a reply.
const MAX_READ: usize = MAX_REPLY - OutHeader::SIZE;

/// What is used where the kernel offers it.
const WANTED: [InitFlags; 4] = [
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ABORT_ERROR,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

/// A server whose requests come from `fuser`.
pub(crate) struct Calls(Arc<Server>);

impl Calls {
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        Self(Arc::clone(server))
    }

    fn ask(&self, caller: &Request, opcode: Opcode, inode: INodeNo, parts: &[&[u8]]) -> Answer {
        Answer::of(&self.0, caller, opcode, inode, parts)
    }

    /// Asks for something that has a size and an offset.
    fn ask_range(&self, caller: &Request, opcode: Opcode, inode: INodeNo, offset: u64, size: u32) -> Answer {
        self.ask(caller, opcode, inode, &[ReadIn { offset, size, ..ReadIn::default() }.as_bytes()])
    }

    /// Counts a request that this transport answers itself.
    fn count(&self, opcode: Opcode) {
        self.0.stats().record(&Message {
            opcode: Some(opcode),
            failed: false,
            received: 0,
            sent: 0,
            content: 0,
            elapsed: Duration::ZERO,
        });
    }

    /// Returns the error with which the server refuses a request. (Those that would change the tree never arrive: the
    /// mount is read-only.)
    fn refusal(&self, caller: &Request, opcode: Opcode, inode: INodeNo) -> Errno {
        self.ask(caller, opcode, inode, &[]).body().err().unwrap_or(Errno::EIO)
    }

    /// Returns what `name` is.
    fn entry(&self, caller: &Request, parent: INodeNo, name: &OsStr) -> Result<EntryOut, Errno> {
        let entry: EntryOut = self.ask(caller, Opcode::Lookup, parent, &[name.as_bytes(), b"\0"]).structure()?;
        if entry.nodeid == 0 { Err(Errno::ENOENT) } else { Ok(entry) }
    }

    /// Adds the entries after `offset` until the kernel has no more room or there are no more.
    fn list(&self, caller: &Request, inode: INodeNo, mut offset: u64, reply: &mut ReplyDirectory) -> Result<(), Errno> {
        loop {
            let answer = self.ask_range(caller, Opcode::Readdir, inode, offset, LISTING);
            let before = offset;
            for (entry, name) in answer.entries()? {
                // The type of an entry is that of a mode, without its lower bits.
                if reply.add(INodeNo(entry.ino), entry.off, file_type(entry.kind << 12), name) {
                    return Ok(());
                }
                offset = entry.off;
            }
            if offset == before {
                return Ok(());
            }
        }
    }
}

/// Answers with an extended attribute or a list of their names, or with its size if the caller has asked for that.
fn reply_xattr(answer: &Answer, size: u32, reply: ReplyXattr) {
    let value = match answer.body() {
        // macFUSE would look for the attribute in a file named `._NAME`.
        Err(Errno::ENOSYS) if cfg!(target_os = "macos") => return reply.error(Errno::NO_XATTR),
        Err(errno) => return reply.error(errno),
        Ok(value) => value,
    };
    match answer.structure::<GetxattrOut>() {
        _ if size > 0 => reply.data(value),
        Ok(wanted) => reply.size(wanted.size),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Calls {
    fn init(&mut self, _caller: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // `fuser` takes the longest write for the longest read, too. What a kernel does not offer is left out.
        let _ = config.set_max_write(u32::try_from(MAX_READ).unwrap_or(u32::MAX));
        let _ = config.set_max_background(MAX_BACKGROUND);
        for wanted in WANTED {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, caller: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.entry(caller, parent, name) {
            Ok(entry) => {
                // `fuser` has one number for both.
                let attributes = fuser::FileAttr { ino: INodeNo(entry.nodeid), ..attributes(&entry.attr) };
                reply.entry(&VALID, &attributes, Generation(entry.generation));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, caller: &Request, inode: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        match self.ask(caller, Opcode::Getattr, inode, &[]).structure::<AttrOut>() {
            Ok(found) => reply.attr(&VALID, &attributes(&found.attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, caller: &Request, inode: INodeNo, reply: ReplyData) {
        match self.ask(caller, Opcode::Readlink, inode, &[]).body() {
            Ok(target) => reply.data(target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _caller: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count(Opcode::Open);
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        caller: &Request,
        inode: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.ask_range(caller, Opcode::Read, inode, offset, size).body() {
            Ok(content) => reply.data(content),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, _caller: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count(Opcode::Opendir);
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(&self, caller: &Request, inode: INodeNo, _file: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.list(caller, inode, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, caller: &Request, inode: INodeNo, reply: ReplyStatfs) {
        match self.ask(caller, Opcode::Statfs, inode, &[]).structure::<Statfs>() {
            Ok(found) => reply.statfs(
                found.blocks,
                found.bfree,
                found.bavail,
                found.files,
                found.ffree,
                found.bsize,
                found.namelen,
                found.frsize,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, caller: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let wanted = GetxattrIn { size, padding: 0 };
        let answer = self.ask(caller, Opcode::Getxattr, inode, &[wanted.as_bytes(), name.as_bytes(), b"\0"]);
        reply_xattr(&answer, size, reply);
    }

    fn listxattr(&self, caller: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let wanted = GetxattrIn { size, padding: 0 };
        reply_xattr(&self.ask(caller, Opcode::Listxattr, inode, &[wanted.as_bytes()]), size, reply);
    }

    fn ioctl(
        &self,
        caller: &Request,
        inode: INodeNo,
        _file: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(self.refusal(caller, Opcode::Ioctl, inode));
    }

    fn access(&self, caller: &Request, inode: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(self.refusal(caller, Opcode::Access, inode));
    }

    fn flush(&self, caller: &Request, inode: INodeNo, _file: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(self.refusal(caller, Opcode::Flush, inode));
    }

    fn fsync(&self, caller: &Request, inode: INodeNo, _file: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        reply.error(self.refusal(caller, Opcode::Fsync, inode));
    }

    fn fsyncdir(&self, caller: &Request, inode: INodeNo, _file: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        reply.error(self.refusal(caller, Opcode::Fsyncdir, inode));
    }

    fn lseek(
        &self,
        caller: &Request,
        inode: INodeNo,
        _file: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(self.refusal(caller, Opcode::Lseek, inode));
    }

    fn poll(
        &self,
        caller: &Request,
        inode: INodeNo,
        _file: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(self.refusal(caller, Opcode::Poll, inode));
    }
}
