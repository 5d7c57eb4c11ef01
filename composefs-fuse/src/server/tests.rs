use super::*;
use crate::wire::{AttrOut, Dirent, DirentPlus, EntryOut, ReadIn, Statfs, padded};
use proptest::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[path = "../../tests/support/mod.rs"]
mod support;

use support::{Layer, Stored as _};

mod handshake;

const ROOT: u64 = 1;

/// A server of one layer, and the store that it lives in.
struct Served {
    server: Server,
    _store: tempfile::TempDir,
}

/// An error number, or the body of a reply.
type Answer = Result<Vec<u8>, Errno>;

impl Served {
    fn of(layer: Layer) -> Self {
        let (view, store) = layer.into_view();
        Self { server: Server::new(Arc::new(view)), _store: store }
    }

    /// A tree with one of everything.
    fn sample() -> Self {
        let layer = Layer::new()
            .directory("dir", 0o1777)
            .file("dir/file", b"0123456789")
            .file("dir/other", b"")
            .symlink("dir/link", "file")
            .hard_link("hard", "dir/file")
            .xattr("user.one", b"value")
            .xattr("user.two", b"")
            .file("marked", b"x");
        Self::of(layer)
    }

    fn ask(&self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Answer {
        self.ask_with_room(opcode, nodeid, body, MAX_REPLY)
    }

    fn ask_with_room(&self, opcode: Opcode, nodeid: u64, body: &[u8], room: usize) -> Answer {
        self.send(&message(opcode as u32, nodeid, body), room)
    }

    fn send(&self, request: &[u8], room: usize) -> Answer {
        let mut reply = vec![0xAA; room];
        let sent = self.server.handle(request, &mut reply);
        let (header, rest) = OutHeader::read_from_prefix(&reply[..sent]).expect("a reply has a header");
        assert_eq!((header.len as usize, header.unique), (sent, 77));
        match header.error {
            0 => Ok(rest.to_vec()),
            error => {
                assert!(rest.is_empty());
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    /// The same for a request of a user other than root.
    fn ask_as(&self, uid: u32, opcode: Opcode, nodeid: u64, body: &[u8]) -> Answer {
        let mut request = message(opcode as u32, nodeid, body);
        let at = std::mem::offset_of!(InHeader, uid);
        request[at..at + 4].copy_from_slice(&uid.to_le_bytes());
        self.send(&request, MAX_REPLY)
    }

    fn lookup(&self, parent: u64, name: &str) -> EntryOut {
        structure(&self.ask(Opcode::Lookup, parent, format!("{name}\0").as_bytes()))
    }

    fn walk(&self, path: &str) -> u64 {
        path.split('/').fold(ROOT, |parent, name| self.lookup(parent, name).nodeid)
    }

    fn read(&self, opcode: Opcode, nodeid: u64, offset: u64, size: u32) -> Answer {
        self.ask(opcode, nodeid, ReadIn { offset, size, ..ReadIn::default() }.as_bytes())
    }
}

fn message(opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(InHeader::SIZE + body.len()).unwrap();
    let header = InHeader { len, opcode, unique: 77, nodeid, ..InHeader::default() };
    [header.as_bytes(), body].concat()
}

fn structure<T: FromBytes + KnownLayout + Immutable>(answer: &Answer) -> T {
    let body = answer.as_ref().expect("an answer, not an error");
    T::read_from_bytes(body).expect("a body of the structure's size")
}

/// The entries of a `READDIR` reply.
fn names(mut body: &[u8]) -> Vec<(Dirent, String)> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let (dirent, rest) = Dirent::read_from_prefix(body).unwrap();
        let name = String::from_utf8(rest[..dirent.namelen as usize].to_vec()).unwrap();
        body = &body[padded(size_of::<Dirent>() + name.len())..];
        found.push((dirent, name));
    }
    found
}

/// The entries of a `READDIRPLUS` reply.
fn names_with_attributes(mut body: &[u8]) -> Vec<(EntryOut, Dirent, String)> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let (plus, rest) = DirentPlus::read_from_prefix(body).unwrap();
        let name = String::from_utf8(rest[..plus.dirent.namelen as usize].to_vec()).unwrap();
        body = &body[padded(size_of::<DirentPlus>() + name.len())..];
        found.push((plus.entry, plus.dirent, name));
    }
    found
}

#[test]
fn names_lead_to_inodes_whose_attributes_hold_for_long() {
    let served = Served::sample();
    let dir = served.lookup(ROOT, "dir");
    assert_eq!(dir.attr.mode, 0o041_777);
    assert_eq!((dir.entry_valid, dir.attr_valid, dir.generation), (CACHE_SECONDS, CACHE_SECONDS, 0));
    let file = served.lookup(dir.nodeid, "file");
    assert_eq!((file.attr.size, file.attr.nlink, file.attr.ino), (10, 2, file.nodeid));
    assert_eq!(served.lookup(ROOT, "hard").nodeid, file.nodeid);
    let again: AttrOut = structure(&served.ask(Opcode::Getattr, file.nodeid, &[0; 16]));
    assert_eq!(again.attr.as_bytes(), file.attr.as_bytes());
    assert_eq!(again.attr_valid, CACHE_SECONDS);
}

#[test]
fn a_missing_name_is_remembered_rather_than_refused() {
    let missing = Served::sample().lookup(ROOT, "nothing");
    assert_eq!((missing.nodeid, missing.entry_valid), (0, CACHE_SECONDS));
}

#[test]
fn dots_lead_back_to_an_inode_known_by_number_only() {
    let served = Served::sample();
    let (dir, file) = (served.walk("dir"), served.walk("dir/file"));
    assert_eq!(served.lookup(file, ".").nodeid, file);
    assert_eq!(served.lookup(file, "/").nodeid, file, "the name of an inode that was found by its number");
    assert_eq!(served.lookup(dir, "..").nodeid, ROOT);
    assert_eq!(served.lookup(ROOT, "..").nodeid, ROOT);
    assert_eq!(served.ask(Opcode::Lookup, file, b"..\0"), Err(Errno::NOTDIR));
}

#[test]
fn inodes_that_are_not_there_are_stale_and_wrong_kinds_are_named() {
    let served = Served::sample();
    for nodeid in [0, 1 << 40, u64::MAX] {
        assert_eq!(served.ask(Opcode::Getattr, nodeid, &[0; 16]), Err(Errno::STALE));
        assert_eq!(served.read(Opcode::Readdirplus, nodeid, 0, 4096), Err(Errno::STALE));
        assert_eq!(served.read(Opcode::Read, nodeid, 0, 4096), Err(Errno::STALE));
    }
    let (dir, file, link) = (served.walk("dir"), served.walk("dir/file"), served.walk("dir/link"));
    assert_eq!(served.read(Opcode::Read, dir, 0, 10), Err(Errno::ISDIR));
    assert_eq!(served.read(Opcode::Read, link, 0, 10), Err(Errno::INVAL));
    assert_eq!(served.read(Opcode::Readdir, file, 0, 4096), Err(Errno::NOTDIR));
    assert_eq!(served.ask(Opcode::Lookup, file, b"x\0"), Err(Errno::NOTDIR));
    assert_eq!(served.ask(Opcode::Readlink, file, b""), Err(Errno::INVAL));
}

#[test]
fn content_is_read_at_any_offset_and_within_any_room() {
    let served = Served::sample();
    let file = served.walk("dir/file");
    assert_eq!(served.read(Opcode::Read, file, 0, 4096).unwrap(), b"0123456789");
    assert_eq!(served.read(Opcode::Read, file, 7, 2).unwrap(), b"78");
    assert_eq!(served.read(Opcode::Read, file, 10, 1).unwrap(), b"");
    assert_eq!(served.read(Opcode::Read, file, u64::MAX, u32::MAX).unwrap(), b"");
    assert_eq!(served.read(Opcode::Read, served.walk("dir/other"), 0, 4096).unwrap(), b"");
    let body = ReadIn { size: 100, ..ReadIn::default() };
    assert_eq!(served.ask_with_room(Opcode::Read, file, body.as_bytes(), 16 + 3).unwrap(), b"012");
    assert_eq!(served.ask(Opcode::Readlink, served.walk("dir/link"), b"").unwrap(), b"file");
}

#[test]
fn a_listing_begins_with_the_dots_and_can_be_had_in_pieces() {
    let served = Served::sample();
    let dir = served.walk("dir");
    let whole = names(&served.read(Opcode::Readdir, dir, 0, 4096).unwrap());
    let spelled: Vec<&str> = whole.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(spelled, [".", "..", "file", "link", "other"]);
    assert_eq!((whole[0].0.ino, whole[1].0.ino), (dir, ROOT));
    assert_eq!(whole.iter().map(|(dirent, _)| dirent.kind).collect::<Vec<_>>(), [4, 4, 8, 10, 8]);

    // 32 bytes hold one entry with a name of up to 8 bytes.
    let mut offset = 0;
    let mut pieces = Vec::new();
    loop {
        let piece = names(&served.read(Opcode::Readdir, dir, offset, 32).unwrap());
        let [(dirent, name)] = &piece[..] else { break };
        offset = dirent.off;
        pieces.push(name.clone());
    }
    assert_eq!(pieces, spelled);
    assert_eq!(served.read(Opcode::Readdir, dir, 0, 8), Err(Errno::INVAL));
}

#[test]
fn a_listing_with_attributes_says_what_lookup_would() {
    let served = Served::sample();
    let dir = served.walk("dir");
    let listed = names_with_attributes(&served.read(Opcode::Readdirplus, dir, 0, 65_536).unwrap());
    assert_eq!(listed.len(), 5);
    for (entry, dirent, name) in &listed {
        match name.as_str() {
            "." | ".." => assert_eq!(entry.nodeid, 0),
            _ => {
                assert_eq!(entry.as_bytes(), served.lookup(dir, name).as_bytes());
                assert_eq!(dirent.ino, entry.nodeid);
            }
        }
    }
    let end = listed.last().unwrap().1.off;
    assert_eq!(served.read(Opcode::Readdirplus, dir, end, 65_536).unwrap(), b"");
    assert_eq!(served.read(Opcode::Readdirplus, dir, u64::MAX, 65_536).unwrap(), b"");
}

fn xattr(served: &Served, nodeid: u64, size: u32, name: &str) -> Answer {
    let body = [size.to_le_bytes().as_slice(), &[0; 4], name.as_bytes(), b"\0"].concat();
    served.ask(Opcode::Getxattr, nodeid, &body)
}

fn xattr_list(served: &Served, nodeid: u64, size: u32) -> Answer {
    served.ask(Opcode::Listxattr, nodeid, &[size.to_le_bytes(), [0; 4]].concat())
}

#[test]
fn extended_attributes_are_sized_before_they_are_read() {
    let served = Served::sample();
    let (marked, file) = (served.walk("marked"), served.walk("dir/file"));
    assert_eq!(xattr(&served, marked, 0, "user.one").unwrap(), [5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(xattr(&served, marked, 5, "user.one").unwrap(), b"value");
    assert_eq!(xattr(&served, marked, 4, "user.one"), Err(Errno::RANGE));
    assert_eq!(xattr(&served, marked, 9, "user.two").unwrap(), b"");
    assert_eq!(xattr(&served, marked, 9, "user.three"), Err(Errno::NODATA));
    assert_eq!(xattr(&served, file, 9, "user.one"), Err(Errno::NODATA));
    assert_eq!(xattr_list(&served, marked, 0).unwrap(), [18, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(xattr_list(&served, marked, 18).unwrap(), b"user.one\0user.two\0");
    assert_eq!(xattr_list(&served, marked, 17), Err(Errno::RANGE));
    assert_eq!(xattr_list(&served, file, 17).unwrap(), b"");
}

#[test]
fn trusted_attributes_are_listed_to_root_alone() {
    let served = Served::of(Layer::new().xattr("trusted.note", b"1").xattr("user.one", b"2").file("marked", b""));
    let marked = served.walk("marked");
    assert_eq!(xattr_list(&served, marked, 100).unwrap(), b"trusted.note\0user.one\0");
    let list = |size: u32| served.ask_as(1000, Opcode::Listxattr, marked, &[size.to_le_bytes(), [0; 4]].concat());
    assert_eq!(list(0).unwrap(), [9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(list(9).unwrap(), b"user.one\0");
}

#[test]
fn a_name_that_no_inode_has_is_unsupported_where_tools_then_stop_asking() {
    let served = Served::of(Layer::new().xattr("security.selinux", b"label").file("labelled", b"").file("plain", b""));
    let plain = served.walk("plain");
    assert_eq!(xattr(&served, plain, 0, "system.posix_acl_access"), Err(Errno::OPNOTSUPP));
    assert_eq!(xattr(&served, plain, 0, "system.posix_acl_default"), Err(Errno::OPNOTSUPP));
    assert_eq!(xattr(&served, plain, 0, "security.selinux"), Err(Errno::NODATA));
    assert_eq!(xattr(&served, served.walk("labelled"), 9, "security.selinux").unwrap(), b"label");
    assert_eq!(xattr(&served, plain, 0, "user.any"), Err(Errno::NODATA));
}

#[test]
fn a_tree_without_extended_attributes_lists_none_and_is_asked_for_one_only_once() {
    let served = Served::of(Layer::new().file("plain", b""));
    let plain = served.walk("plain");
    assert_eq!(xattr(&served, plain, 9, "security.capability"), Err(Errno::NOSYS));
    for nodeid in [ROOT, plain] {
        assert_eq!(xattr_list(&served, nodeid, 0).unwrap(), [0; 8]);
        assert_eq!(xattr_list(&served, nodeid, 9).unwrap(), b"");
    }
    assert_eq!(xattr_list(&served, u64::MAX, 9), Err(Errno::STALE));
}

#[test]
fn an_ioctl_is_answered_as_by_a_file_system_that_has_none() {
    let served = Served::sample();
    for path in ["dir", "dir/file", "dir/link"] {
        assert_eq!(served.ask(Opcode::Ioctl, served.walk(path), &[0; 32]), Err(Errno::NOTTY), "{path}");
    }
}

#[test]
fn every_change_is_refused_and_everything_else_is_declined() {
    let served = Served::sample();
    for opcode in Opcode::ALL.iter().copied().filter(|opcode| opcode.changes_the_tree()) {
        assert_eq!(served.ask(opcode, ROOT, b"x\0"), Err(Errno::ROFS), "{opcode:?}");
    }
    for opcode in [Opcode::Open, Opcode::Opendir, Opcode::Flush, Opcode::Access, Opcode::Lseek, Opcode::Statx] {
        assert_eq!(served.ask(opcode, ROOT, &[0; 64]), Err(Errno::NOSYS), "{opcode:?}");
    }
    let mut reply = [0; 64];
    let sent = served.server.handle(&message(4_711, ROOT, b""), &mut reply);
    let header = OutHeader::read_from_bytes(&reply[..sent]).unwrap();
    assert_eq!(header.error, -Errno::NOSYS.raw_os_error());
    assert_eq!(served.server.stats().snapshot().count("UNKNOWN"), 1);
}

#[test]
fn forgetting_gets_no_reply_and_is_counted() {
    let served = Served::sample();
    let mut reply = [0; 64];
    assert_eq!(served.server.handle(&message(Opcode::Forget as u32, ROOT, &[0; 8]), &mut reply), 0);
    assert_eq!(served.server.handle(&message(Opcode::BatchForget as u32, 0, &[0; 8]), &mut []), 0);
    let counted = served.server.stats().snapshot();
    assert_eq!((counted.count("FORGET"), counted.count("BATCH_FORGET"), counted.malformed), (1, 1, 0));
}

#[test]
fn the_size_of_the_file_system_is_that_of_its_blobs() {
    let answer: Statfs = structure(&Served::sample().ask(Opcode::Statfs, ROOT, b""));
    assert_eq!((answer.bfree, answer.ffree, answer.namelen), (0, 0, 255));
    assert!(answer.blocks > 0 && answer.files >= 6);
}

#[test]
fn mangled_requests_are_refused_or_dropped() {
    let served = Served::sample();
    assert_eq!(served.ask(Opcode::Lookup, ROOT, b"unterminated"), Err(Errno::INVAL));
    assert_eq!(served.ask(Opcode::Lookup, ROOT, b"\0"), Err(Errno::INVAL));
    assert_eq!(served.ask(Opcode::Lookup, ROOT, &[[b'n'; 256].as_slice(), b"\0"].concat()), Err(Errno::NAMETOOLONG));
    assert_eq!(served.ask(Opcode::Read, ROOT, &[0; 39]), Err(Errno::INVAL));
    assert_eq!(served.ask(Opcode::Init, 0, &[0; 15]), Err(Errno::INVAL));

    let mut lies = message(Opcode::Lookup as u32, ROOT, b"dir\0");
    let mut reply = [0; 256];
    for length in [0_u32, 39, 45, u32::MAX] {
        lies[..4].copy_from_slice(&length.to_le_bytes());
        let sent = served.server.handle(&lies, &mut reply);
        let header = OutHeader::read_from_bytes(&reply[..sent]).unwrap();
        assert_eq!(header.error, -Errno::INVAL.raw_os_error(), "a length of {length}");
    }
    assert_eq!(served.server.handle(&lies[..39], &mut reply), 0);
    assert_eq!(served.server.handle(&lies, &mut [0; 15]), 0);
    assert_eq!(served.server.stats().snapshot().malformed, 2);
}

#[test]
fn a_panic_costs_the_request_and_nothing_else() {
    let served = Served::sample();
    assert_eq!(served.server.guarded(|| panic!("on purpose")), Err(Errno::IO));
    assert_eq!(served.server.stats().snapshot().panics, 1);
    assert_eq!(served.read(Opcode::Read, served.walk("dir/file"), 0, 1).unwrap(), b"0");
}

thread_local!(static SAMPLE: Served = Served::sample());

/// Hands `request` to a server, whatever it says: it answers or refuses, in a reply that a kernel takes, or says
/// nothing.
fn answers_or_refuses(request: &[u8], room: usize) -> Result<(), TestCaseError> {
    let mut reply = vec![0; room];
    let sent = SAMPLE.with(|served| {
        let sent = served.server.handle(request, &mut reply);
        prop_assert_eq!(served.server.stats().snapshot().panics, 0);
        Ok(sent)
    })?;
    prop_assert!(sent <= room);
    if sent == 0 {
        return Ok(());
    }
    let (asked, _) = InHeader::read_from_prefix(request).expect("what has no header has no answer");
    let (header, body) = OutHeader::read_from_prefix(&reply[..sent]).expect("an answer has a header");
    prop_assert_eq!((header.len as usize, header.unique), (sent, asked.unique));
    // `fuse_dev_do_write` in fs/fuse/dev.c: otherwise the write fails, and the process that asked waits forever.
    prop_assert!(header.error == 0 || (-511..0).contains(&header.error) && body.is_empty(), "{:?}", header);
    prop_assert!(!Opcode::from_raw(asked.opcode).is_some_and(Opcode::wants_no_reply));
    Ok(())
}

proptest! {
    #[test]
    fn whatever_a_guest_asks_is_answered_or_refused(
        opcode in 0_u32..60,
        nodeid in prop_oneof![0_u64..12, (1_u64 << 32)..(1 << 32) + 12, any::<u64>()],
        body in proptest::collection::vec(any::<u8>(), 0..120),
        length in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        room in prop_oneof![0_usize..600, Just(MAX_REPLY)],
    ) {
        let mut request = message(opcode, nodeid, &body);
        if let Some(length) = length {
            request[..4].copy_from_slice(&length.to_le_bytes());
        }
        answers_or_refuses(&request, room)?;
    }

    #[test]
    fn bytes_that_are_no_request_are_answered_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        room in prop_oneof![0_usize..600, Just(MAX_REPLY)],
    ) {
        answers_or_refuses(&bytes, room)?;
    }
}
