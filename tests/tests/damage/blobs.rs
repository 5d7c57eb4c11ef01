//! Damaged blobs are named, and mounts that verify refuse them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use end_to_end::layout::Layer;
use end_to_end::{Actor, Inventory, Layout, Session};
use layer_store::Silent;
use rustix::io::Errno;

use crate::fixture::{Kept, flip, small_layers};

pub(crate) const REFERENCE: &str = "lamina.test/image:1";

end_to_end::on_transports! {
    verifying_mount_refuses_the_damaged_file_and_no_other,
    cut_blob_refuses_what_it_lacks_whether_the_mount_verifies_or_not,
}

/// A blob of a session's store by the layer's DiffID.
pub(crate) fn blob(session: &Session, layer: &Layer) -> PathBuf {
    session.store().join("layers/sha256").join(layer.diff_id().trim_start_matches("sha256:")).join("blob")
}

/// Where in a tar the stored content of each file is.
pub(crate) fn contents(tar: &[u8]) -> BTreeMap<String, Range<usize>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.header().entry_type() == tar::EntryType::Regular && entry.size() > 0);
    let place = |entry: tar::Entry<'_, &[u8]>| {
        let path = entry.path().expect("a path");
        let path = format!("/{}", path.strip_prefix("./").unwrap_or(&path).display());
        let start = usize::try_from(entry.raw_file_position()).expect("a position");
        (path, start..start + usize::try_from(entry.size()).expect("a size"))
    };
    files.map(place).collect()
}

fn layers() -> [Layer; 2] {
    let lower = [("etc/first", &[1; 700][..]), ("etc/second", &[2; 30]), ("srv/third", &[3; 5000])];
    [Layer::of_files(&lower), Layer::of_files(&[("etc/fourth", &[4; 100]), ("srv/fifth", &[5; 512])])]
}

#[test]
fn verification_finds_any_flipped_byte_and_names_the_file_that_it_is_of() {
    let layers = layers();
    let kept = Kept::of(&layers);
    let contents = contents(layers[0].tar());
    assert_eq!(contents.len(), 3, "{contents:?}");
    let path = kept.of_layer(0, "blob");
    let store = kept.store();
    for position in 0..layers[0].tar().len() {
        flip(&path, position);
        let damage = store.layers().verify(&kept.layers[0], &Silent).expect("verified");
        let damage = damage.unwrap_or_else(|| panic!("byte {position} flipped: not found"));
        let owners: Vec<_> =
            contents.iter().filter(|(_, range)| range.contains(&position)).map(|(path, _)| path).collect();
        assert_eq!(damage.layer, kept.layers[0]);
        assert!(damage.paths.iter().eq(owners.iter().copied()), "byte {position}: {:?} for {owners:?}", damage.paths);
        flip(&path, position);
    }
    assert_eq!(store.layers().verify(&kept.layers[0], &Silent).expect("verified"), None);
}

#[test]
fn verification_names_sparse_and_linked_files_too() {
    let layers = small_layers();
    let kept = Kept::of(&layers);
    let tar = layers[0].tar();
    let find = |content: &[u8]| tar.windows(content.len()).position(|window| window == content).expect("the content");
    for (content, path) in [(&b"data\n"[..], "/lower/sparse"), (b"one\n", "/both/one"), (b"hidden\n", "/hidden/file")] {
        flip(&kept.of_layer(0, "blob"), find(content));
        let damage = kept.store().layers().verify(&kept.layers[0], &Silent).expect("verified").expect("damage");
        assert_eq!(damage.paths, [path]);
        flip(&kept.of_layer(0, "blob"), find(content));
    }
}

fn session_with(layers: &[Layer]) -> Session {
    let session = Session::user();
    session.import(Layout::of(layers).path(), REFERENCE);
    session
}

#[test]
fn verify_names_the_layer_and_the_path_and_fails() {
    let layers = layers();
    let session = session_with(&layers);
    session.import(Layout::of(&layers[1..]).path(), "lamina.test/other:1");
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");

    let path = blob(&session, &layers[0]);
    flip(&path, contents(layers[0].tar())["/etc/second"].start);
    let before = Inventory::of(&session.store());
    for arguments in [&["verify"][..], &["verify", REFERENCE]] {
        let finished = session.run(arguments);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        assert!(
            finished.stdout.contains(&layers[0].diff_id()) && finished.stdout.contains("/etc/second"),
            "{finished}"
        );
        for other in [&layers[1].diff_id(), "/etc/first", "/srv/third"] {
            assert!(!finished.stdout.contains(other), "{finished}");
        }
    }
    let finished = session.run(["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("verify --json prints JSON");
    assert_eq!(report["damaged"][0]["layer"], layers[0].diff_id(), "{report}");
    assert_eq!(report["damaged"][0]["paths"], serde_json::json!(["/etc/second"]), "{report}");
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert_eq!(session.ok(["verify", "lamina.test/other:1"]), "1 layer is intact\n");
    assert_eq!(Inventory::of(&session.store()), before, "looking changes nothing");
    session.traces().assert_nothing_left();
}

/// Reads a file whole as the session's user.
fn read(path: &Path) -> Result<Vec<u8>, Option<Errno>> {
    Actor::User.act(|| fs::read(path)).map_err(|error| Errno::from_io_error(&error))
}

/// What every file of [`layers`] holds, except for `damaged`, which cannot be read.
fn only_this_is_refused(point: &Path, damaged: &str) {
    let files = [
        ("/etc/first", 1, 700),
        ("/etc/second", 2, 30),
        ("/srv/third", 3, 5000),
        ("/etc/fourth", 4, 100),
        ("/srv/fifth", 5, 512),
    ];
    for (path, byte, length) in files {
        let found = read(&point.join(&path[1..]));
        let expected = if path == damaged { Err(Some(Errno::IO)) } else { Ok(vec![byte; length]) };
        assert!(found == expected, "{path} with {damaged} damaged: {found:?}");
    }
    let stat =
        Actor::User.act(|| fs::metadata(point.join(&damaged[1..]))).expect("attributes do not depend on content");
    assert!(stat.len() > 0);
}

fn verifying_mount_refuses_the_damaged_file_and_no_other() {
    let layers = layers();
    let session = session_with(&layers);
    for (number, name) in [(0, "/etc/second"), (0, "/srv/third"), (1, "/srv/fifth")] {
        let path = blob(&session, &layers[number]);
        // Its last byte, which is read last.
        let position = contents(layers[number].tar())[name].end - 1;
        for while_mounted in [false, true] {
            if !while_mounted {
                flip(&path, position);
            }
            let point = session.mount_with(REFERENCE, "mounted", &["--verify"]);
            if while_mounted {
                flip(&path, position);
            }
            for _ in 0..2 {
                only_this_is_refused(&point, name);
            }
            session.umount(&point);
            flip(&path, position);
        }
    }
    let point = session.mount_with(REFERENCE, "mounted", &["--verify"]);
    assert_eq!(read(&point.join("srv/third")), Ok(vec![3; 5000]), "the blob is whole again");
    session.umount(&point);
    session.traces().assert_nothing_left();
}

#[test]
fn damaged_content_is_named_in_the_log_of_the_mount() {
    let layers = layers();
    let session = session_with(&layers);
    flip(&blob(&session, &layers[0]), contents(layers[0].tar())["/etc/second"].start);
    let point = session.work("mounted");
    let arguments = ["mount", "--verify", "--foreground", REFERENCE, point.to_str().expect("a plain path")];
    let mut mount = session.start(session.lamina(arguments));
    while session.traces().mounts().is_empty() {
        assert!(mount.child.try_wait().expect("the mount's state").is_none(), "{}", mount.finish());
    }
    assert_eq!(read(&point.join("etc/second")), Err(Some(Errno::IO)));
    mount.signal(rustix::process::Signal::INT);
    let finished = mount.finish();
    assert!(finished.stderr.contains(&layers[0].diff_id()) && finished.stderr.contains("/etc/second"), "{finished}");
}

fn cut_blob_refuses_what_it_lacks_whether_the_mount_verifies_or_not() {
    let layers = layers();
    let session = session_with(&layers);
    let place = &contents(layers[0].tar())["/srv/third"];
    let file = fs::File::options().write(true).open(blob(&session, &layers[0])).expect("the blob");
    file.set_len(place.start as u64 + 10).expect("a shorter blob");
    for options in [&[][..], &["--verify"]] {
        let point = session.mount_with(REFERENCE, "mounted", options);
        only_this_is_refused(&point, "/srv/third");
        session.umount(&point);
    }
    let finished = session.run(["verify"]);
    assert!(finished.stdout.contains("/srv/third") && !finished.stdout.contains("/etc/second"), "{finished}");
}
