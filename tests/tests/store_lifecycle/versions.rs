//! Programs and stores of different versions.

use std::path::{Path, PathBuf};

use end_to_end::programs::installed;
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Finished, Inventory, Session, TreeDump};
use serde_json::{Value, json};

use super::additional_store::{make_older, set_version};
use super::shared_content::{BORROWER, DONOR, Twins};
use super::{Images, top};

const IMAGE: &str = "lamina.test/image:1";

fn store_file(store: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(store.join("store.json")).expect("store.json")).expect("store.json")
}

/// Changes a store's `store.json` as a newer program would.
fn change(session: &Session, key: &str, value: Value) {
    let mut file = store_file(&session.store());
    file[key] = value;
    std::fs::write(session.store().join("store.json"), file.to_string()).expect("store.json");
}

#[test]
fn store_that_this_program_cannot_read_is_refused_by_a_message_that_names_both() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let version = concat!("lamina ", env!("CARGO_PKG_VERSION"));
    let cases = [
        ("incompatible", json!(["tomorrows-layers"]), format!("uses \"tomorrows-layers\", which {version}")),
        ("format", json!(2), format!("has format 2, and {version} knows formats up to 1")),
    ];
    for (key, value, message) in cases {
        change(&session, key, value);
        let before = Inventory::of(&session.store());
        let import = ["import", images.second.path().to_str().unwrap()];
        for arguments in [&["images"][..], &["prepare", IMAGE], &["gc"], &["rmi", IMAGE], &import] {
            session.run(arguments).refused(&message);
        }
        assert_eq!(Inventory::of(&session.store()), before);
    }
}

#[test]
fn store_that_has_lost_its_description_gets_it_again_with_what_its_layers_need() {
    let (session, twins) = (Session::user(), Twins::new());
    session.import(twins.donor.path(), DONOR);
    session.import(twins.borrower.path(), BORROWER);
    let path = session.store().join("store.json");
    let before = store_file(&session.store());
    assert_eq!(before["incompatible"], json!(["thin-layers"]));
    std::fs::write(&path, "{").expect("a damaged description");
    let refused = session.run(["images"]);
    refused.refused(path.to_str().expect("a plain path"));
    assert!(refused.stderr.contains("remove it: the next command creates a new one"), "{refused}");
    std::fs::remove_file(&path).expect("no description");
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
    assert_eq!(store_file(&session.store()), before);
}

#[test]
fn store_that_this_program_may_only_read_is_read_and_held_and_not_changed() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let base = session.ok(["prepare", IMAGE]);
    change(&session, "read_only_compatible", json!(["tomorrows-notes"]));
    change(&session, "tomorrow", json!({"kept": true}));
    let before = Inventory::of(&session.store());
    let point = session.mount(IMAGE, "mounted");
    let tree = session.tree(&point);
    assert!(tree.get("etc/os-release").is_some());
    let layer = sound_layers(&session.store()).pop().expect("a layer");
    assert!(session.ok(["gc", "--explain", &layer]).contains("a mount of"), "a reader holds what it reads");
    session.umount(&point);
    assert_eq!(session.ok(["prepare", IMAGE]), base);
    for arguments in [&["images"][..], &["inspect", IMAGE], &["verify"], &["du"], &["gc", "--dry-run"]] {
        session.ok(arguments);
    }
    let exported = session.directory().join("work/exported");
    session.ok(["export", IMAGE, exported.to_str().unwrap()]);

    let second = images.second.path().to_str().unwrap();
    let agent = top(&session, "a variant");
    let variant = ["prepare", IMAGE, "--layer", agent.to_str().unwrap()];
    for arguments in [&["import", second][..], &["rmi", IMAGE], &["gc"], &variant] {
        session.run(arguments).refused("\"tomorrows-notes\"");
    }
    assert_eq!(Inventory::of(&session.store()), before);

    // What it made may have a version that this program does not know: it is built again in memory.
    make_older(&session.store());
    set_version(&session.store().join("bases").join(base.trim()).join("index"), 99);
    let before = Inventory::of(&session.store());
    let point = session.mount(IMAGE, "mounted-again");
    assert_eq!(session.tree(&point).to_string(), tree.to_string());
    session.umount(&point);
    assert_eq!(Inventory::of(&session.store()), before);
    session.traces().assert_nothing_left();
    assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
}

const OLD: &str = "lamina.test/old:1";

/// The store that the first version left, unpacked for a session; `tests/fixtures/store-v1/make` says what is in
/// it.
fn old_store() -> Session {
    let session = Session::user();
    // The user may have no access to the checkout.
    let kept = std::fs::File::open(fixtures().join("store.tar.gz")).expect("the old store");
    let mut unpack = session.command(&installed("tar"));
    unpack.args(["-xzf", "-", "--strip-components=1", "--no-same-owner", "-C"]).arg(session.store()).stdin(kept);
    Finished::of(&mut unpack).succeeded();
    session
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1")
}

fn old_tree() -> TreeDump {
    let text = std::fs::read_to_string(fixtures().join("tree.txt")).expect("the old store's tree");
    TreeDump::parse(&text).expect("tree-dump's own format")
}

fn assert_shows_the_old_tree(session: &Session, name: &str) {
    let point = session.mount(OLD, name);
    old_tree().assert_same(&session.tree(&point), &[], OLD);
    session.umount(&point);
}

#[test]
fn store_of_the_first_program_is_used_as_it_is_for_ever() {
    let session = old_store();
    let before = Inventory::of(&session.store());
    assert!(session.ok(["images"]).contains(OLD));
    assert_shows_the_old_tree(&session, "mounted");
    session.ok(["verify"]);
    session.ok(["inspect", OLD]);
    let agent = session.work("agent");
    std::fs::write(agent.join("agent"), "agent\n").unwrap();
    session.ok(["prepare", OLD, "--layer", agent.to_str().unwrap()]);
    // The variant's base and its layer are not needed.
    assert_eq!(session.ok(["gc", "--dry-run"]).lines().filter(|line| line.contains(" layer ")).count(), 2);
    assert_eq!(sound_layers(&session.store()).len(), 4);
    assert!(before.layers().iter().all(|layer| session.store().join(layer).join("blob").is_file()));
    session.traces().assert_nothing_left();
}

#[test]
fn caches_of_another_version_are_rewritten_when_they_are_needed() {
    let session = old_store();
    let indexes = || -> Vec<(PathBuf, [u8; 4])> {
        let layers = Inventory::of(&session.store());
        let paths = layers.layers().into_iter().map(|layer| layer.join("index"));
        paths.map(|path| (path.clone(), version(&session.store().join(path)))).collect()
    };
    assert_shows_the_old_tree(&session, "mounted");
    let current = indexes();
    make_older(&session.store());
    let made_older = indexes();
    session.ok(["images"]);
    assert_eq!(indexes(), made_older, "nothing is rewritten before it is needed");
    for base in std::fs::read_dir(session.store().join("bases")).unwrap() {
        set_version(&base.unwrap().path().join("index"), 0);
    }
    assert_shows_the_old_tree(&session, "mounted-again");
    let rewritten: Vec<bool> = indexes().iter().zip(&current).map(|(now, then)| now == then).collect();
    // The variant's layer is in no image that was mounted.
    assert_eq!(rewritten.iter().filter(|same| **same).count(), 2, "{rewritten:?}");
}

fn version(path: &Path) -> [u8; 4] {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes[8..12].try_into().expect("four bytes")
}

/// The last version copied layers of other stores by reflink or hard link without computing their digests.
#[test]
fn layer_that_the_last_version_may_have_taken_unverified_is_verified_once() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let mut file = store_file(&session.store());
    assert_eq!(file["read_only_compatible"], json!(["hashed-layers"]));
    file["read_only_compatible"] = json!([]);
    std::fs::write(session.store().join("store.json"), file.to_string()).expect("store.json");
    let layers = sound_layers(&session.store());
    let blob = |layer: &str| session.store().join("layers").join(layer.replace(':', "/")).join("blob");
    // A layer that was linked has no record of how it came.
    for record in std::fs::read_dir(session.store().join("compressed/sha256")).expect("records") {
        let record = record.expect("a record").path();
        if std::fs::read_to_string(&record).expect("a record").trim_end() == layers[0] {
            std::fs::remove_file(record).expect("removed");
        }
    }
    let mut bytes = std::fs::read(blob(&layers[0])).expect("a blob");
    bytes[600] ^= 1;
    std::fs::write(blob(&layers[0]), bytes).expect("a changed blob");

    let said = session.run(["images"]).succeeded().stderr;
    assert!(said.contains("verifying 1 layers") && said.contains(&format!("layer {} is removed", layers[0])), "{said}");
    assert_eq!(store_file(&session.store())["read_only_compatible"], json!(["hashed-layers"]));
    assert_eq!(sound_layers(&session.store()), layers[1..]);
    session.run(["prepare", IMAGE]).refused("pull the image again");
    assert_eq!(session.run(["images"]).succeeded().stderr, "", "that was done once");
    session.import(images.first.path(), IMAGE);
    assert_eq!(sound_layers(&session.store()), layers);
    session.ok(["prepare", IMAGE]);
}
