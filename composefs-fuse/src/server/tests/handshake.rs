//! What is agreed with kernels, old, new and hostile.

use super::*;
use crate::wire::{InitFlags, InitIn, InitOut};
use std::fs;

fn handshake(offer: InitIn) -> Answer {
    // Kernels send a longer structure than we look at.
    Served::sample().ask(Opcode::Init, 0, &[offer.as_bytes(), &[0; 48]].concat())
}

#[test]
fn the_handshake_takes_what_a_tree_that_never_changes_can_use() {
    let offered = InitIn { major: 7, minor: 45, max_readahead: 131_072, flags: u32::MAX };
    let answer: InitOut = structure(&handshake(offered));
    assert_eq!((answer.major, answer.minor), (7, 31));
    assert_eq!(answer.max_readahead, 131_072);
    assert!(answer.max_background >= 64);
    let flags = InitFlags(answer.flags);
    assert!(flags.contains(InitFlags::DO_READDIRPLUS) && flags.contains(InitFlags::CACHE_SYMLINKS));
    for (refused, name) in
        [(12, "AUTO_INVAL_DATA"), (14, "READDIRPLUS_AUTO"), (16, "WRITEBACK_CACHE"), (20, "POSIX_ACL")]
    {
        assert_eq!(answer.flags & (1 << refused), 0, "{name}");
    }
}

#[test]
fn the_handshake_uses_only_what_is_offered_and_refuses_kernels_that_open_by_message() {
    let needed = InitFlags::NO_OPEN_SUPPORT.with(InitFlags::NO_OPENDIR_SUPPORT);
    let offer = InitIn { major: 7, minor: 31, max_readahead: 0, flags: needed.0 };
    let answer: InitOut = structure(&handshake(offer));
    assert_eq!(answer.flags, needed.0);
    assert_eq!(handshake(InitIn { flags: 0, ..offer }), Err(Errno::PROTO));
    assert_eq!(handshake(InitIn { minor: 30, ..offer }), Err(Errno::PROTO));
    assert_eq!(handshake(InitIn { major: 6, ..offer }), Err(Errno::PROTO));
}

#[test]
fn a_newer_major_version_is_asked_to_come_down() {
    let answer: InitOut = structure(&handshake(InitIn { major: 8, ..InitIn::default() }));
    assert_eq!((answer.major, answer.flags), (7, 0));
}

#[test]
fn handshakes_refused_without_end_do_not_fill_the_log() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.reopen().unwrap())).finish();
    let served = Served::of(Layer::new());
    let offer = InitIn { major: 7, minor: 8, ..InitIn::default() };
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            assert_eq!(served.ask(Opcode::Init, 0, offer.as_bytes()), Err(Errno::PROTO));
        }
    });
    let text = fs::read_to_string(log.path()).unwrap();
    assert_eq!(text.lines().count(), 101, "{text}");
}
