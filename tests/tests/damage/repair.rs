//! `lamina verify --repair`: damaged layers are fetched again, or the store is as it was.

use std::fs;
use std::path::Path;

use end_to_end::layout::Layer;
use end_to_end::{Inventory, Layout, Registry, Session};

use crate::blobs::{REFERENCE, blob, contents};
use crate::fixture::flip;

fn layers() -> [Layer; 2] {
    [Layer::of_files(&[("etc/lower", &[1; 5000])]), Layer::of_files(&[("etc/upper", &[2; 5000])])]
}

/// A kind of damage to a blob.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Content,
    Header,
    Cut,
    Emptied,
    Missing,
    IndexToo,
}

impl Damage {
    const ALL: [Self; 6] = [Self::Content, Self::Header, Self::Cut, Self::Emptied, Self::Missing, Self::IndexToo];

    fn inflict(self, blob: &Path, layer: &Layer) {
        let cut = |length| fs::File::options().write(true).open(blob).and_then(|file| file.set_len(length));
        match self {
            Self::Content => flip(blob, contents(layer.tar())["/etc/lower"].start),
            Self::Header => flip(blob, 0),
            Self::Cut => cut(1000).expect("a shorter blob"),
            Self::Emptied => cut(0).expect("an empty blob"),
            Self::Missing => fs::remove_file(blob).expect("the blob"),
            Self::IndexToo => {
                flip(blob, 0);
                fs::remove_file(blob.with_file_name("index")).expect("the index");
            }
        }
    }
}

fn tree_is_right(session: &Session, reference: &str) {
    let point = session.mount(reference, "mounted");
    let tree = session.tree(&point);
    let sizes = ["etc/lower", "etc/upper"].map(|path| tree.get(path).map(|fields| fields["size"].as_str()));
    assert_eq!(sizes, [Some("5000"); 2]);
    session.umount(&point);
}

#[test]
fn damaged_layer_is_fetched_again_alone() {
    let (registry, layers) = (Registry::plain(), layers());
    let layout = Layout::of(&layers);
    let reference = registry.push_layout(layout.path(), "test/image", "1");
    for damage in Damage::ALL {
        let session = Session::user();
        session.ok(["pull", &reference]);
        let expected = Inventory::of(&session.store()).layers().len();
        damage.inflict(&blob(&session, &layers[0]), &layers[0]);
        let finished = session.run(["verify", &reference]);
        assert_eq!(finished.status.code(), Some(1), "{damage:?}: {finished}");
        assert!(finished.stdout.contains(&layers[0].diff_id()), "{damage:?}: {finished}");

        let fetched = registry.fetched_blobs().len();
        let finished = session.run(["verify", "--repair", &reference]).succeeded();
        assert!(finished.stdout.contains(&layers[0].diff_id()), "{damage:?}: {finished}");
        assert_eq!(registry.fetched_blobs()[fetched..], layout.layer_digests()[..1], "{damage:?}");
        assert_eq!(session.ok(["verify"]), "2 layers are intact\n", "{damage:?}");
        assert_eq!(Inventory::of(&session.store()).layers().len(), expected, "{damage:?}");
        tree_is_right(&session, &reference);
        // It works again: the source of the layer is still known.
        damage.inflict(&blob(&session, &layers[0]), &layers[0]);
        session.run(["verify", "--repair"]).succeeded();
        session.traces().assert_nothing_left();
    }
}

#[test]
fn running_mount_keeps_what_it_has_while_a_layer_is_repaired() {
    let (registry, session, layers) = (Registry::plain(), Session::user(), layers());
    let reference = registry.push_layout(Layout::of(&layers).path(), "test/image", "1");
    session.ok(["pull", &reference]);
    let point = session.mount(&reference, "mounted");
    let before = session.tree(&point);
    assert_eq!(before.get("etc/lower").map(|fields| fields["size"].as_str()), Some("5000"));
    flip(&blob(&session, &layers[0]), 0);
    session.run(["verify", "--repair"]).succeeded();
    assert_eq!(session.tree(&point), before);
    session.umount(&point);
    tree_is_right(&session, &reference);
}

#[test]
fn layer_that_nobody_can_give_again_is_named_and_the_store_is_as_it_was() {
    let (session, layers) = (Session::user(), layers());
    session.import(Layout::of(&layers).path(), REFERENCE);
    flip(&blob(&session, &layers[0]), contents(layers[0].tar())["/etc/lower"].start);
    let before = Inventory::of(&session.store());
    let finished = session.run(["verify", "--repair", REFERENCE]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stdout.contains("/etc/lower"), "{finished}");
    assert!(finished.stderr.contains(&layers[0].diff_id()) && finished.stderr.contains("--from"), "{finished}");
    assert_eq!(Inventory::of(&session.store()), before);
    // The remedy that it names works.
    let layout = Layout::of(&layers);
    session.ok(["verify", "--repair", "--from", layout.path().to_str().unwrap()]);
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
    let other = Layout::of(&[Layer::of_files(&[("etc/other", b"other")])]);
    flip(&blob(&session, &layers[0]), 0);
    let refused = session.run(["verify", "--repair", "--from", other.path().to_str().unwrap()]);
    assert!(refused.stderr.contains(&format!("has no layer {}", layers[0].diff_id())), "{refused}");
    session.traces().assert_nothing_left();
}

#[test]
fn layer_of_an_imported_image_is_taken_again_from_where_it_came() {
    let (session, layers) = (Session::user(), layers());
    let layout = Layout::of(&layers);
    session.import(layout.path(), REFERENCE);
    let images = session.ok(["images", "--json"]);
    flip(&blob(&session, &layers[0]), contents(layers[0].tar())["/etc/lower"].start);
    session.run(["verify", "--repair"]).succeeded();
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
    assert_eq!(session.ok(["images", "--json"]), images, "no name has changed");
    session.traces().assert_nothing_left();
}

/// A changed manifest says nothing about its own layers; those of other images must still be reported.
#[test]
fn unreadable_image_is_reported_and_the_layers_of_the_others_are_verified() {
    let (session, [first, second]) = (Session::user(), layers());
    session.import(Layout::of(std::slice::from_ref(&first)).path(), REFERENCE);
    session.import(Layout::of(std::slice::from_ref(&second)).path(), "lamina.test/other:1");
    let images: serde_json::Value = serde_json::from_str(&session.ok(["images", "--json"])).unwrap();
    let digest = images[0]["manifest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    flip(&session.store().join("manifests/sha256").join(digest), 10);
    flip(&blob(&session, &second), 0);
    let finished = session.run(["verify", "--json"]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["damaged"][0]["layer"], second.diff_id());
    assert_eq!(report["unreadable"].as_array().unwrap().len(), 1, "{finished}");
    let usage: serde_json::Value = serde_json::from_str(&session.ok(["du", "--json"])).unwrap();
    let broken = usage["images"].as_array().unwrap().iter().filter(|image| image["error"].is_string()).count();
    assert_eq!(broken, 1, "{usage}");
    let removed = session.ok(["rmi", REFERENCE]);
    assert!(removed.contains("not known") && !removed.contains("0 B were its own"), "{removed}");

    fs::write(session.store().join("images").join("broken.json"), "{").unwrap();
    flip(&blob(&session, &second), 0);
    let finished = session.run(["verify"]);
    assert_eq!(finished.status.code(), Some(1), "a name that cannot be read\n{finished}");
    assert!(finished.stdout.contains("broken.json") && finished.stdout.contains("1 layer is intact"), "{finished}");
}

#[test]
fn registry_that_is_gone_or_has_another_layer_leaves_the_store_as_it_was() {
    let (registry, session, layers) = (Registry::plain(), Session::user(), layers());
    let layout = Layout::of(&layers);
    let reference = registry.push_layout(layout.path(), "test/image", "1");
    session.ok(["pull", &reference]);
    flip(&blob(&session, &layers[0]), contents(layers[0].tar())["/etc/lower"].start);
    let before = Inventory::of(&session.store());
    let refused = |thing: &str| {
        let finished = session.run(["verify", "--repair", &reference]);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        assert!(finished.stderr.contains(thing) && !finished.stderr.contains("panicked"), "{finished}");
        assert_eq!(Inventory::of(&session.store()), before);
        session.traces().assert_nothing_left();
    };
    let served = registry.blob_path(&layout.layer_digests()[0]);
    let bytes = fs::read(&served).expect("the registry's blob");
    flip(&served, bytes.len() / 2);
    refused(&layout.layer_digests()[0]["sha256:".len()..][..12]);
    fs::remove_file(&served).expect("the registry's blob");
    refused(&layout.layer_digests()[0]["sha256:".len()..][..12]);
    let address = registry.address().to_owned();
    drop(registry);
    refused(&address);
}

#[test]
fn one_layer_that_cannot_be_repaired_does_not_keep_others_from_it() {
    let (registry, session) = (Registry::plain(), Session::user());
    let [pulled, imported] = layers();
    // Names decide the order in which layers are looked at: try both.
    for (seed, pulled) in [(0, pulled.clone()), (1, Layer::of_files(&[("etc/lower", &[7; 5000])]))] {
        let reference =
            registry.push_layout(Layout::of(std::slice::from_ref(&pulled)).path(), "test/image", &seed.to_string());
        session.ok(["pull", &reference]);
        session.import(Layout::of(std::slice::from_ref(&imported)).path(), REFERENCE);
        flip(&blob(&session, &imported), 0);
        flip(&blob(&session, &pulled), 0);
        let finished = session.run(["verify", "--repair", REFERENCE, &reference]);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        assert!(finished.stderr.contains(&imported.diff_id()), "{finished}");
        assert_eq!(session.ok(["verify", &reference]), "1 layer is intact\n");
        flip(&blob(&session, &imported), 0);
    }
}
