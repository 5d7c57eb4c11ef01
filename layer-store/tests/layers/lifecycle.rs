//! What stays in a store, what a collection removes, and how damage is found.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use layer_store::{BaseId, DiffId, GarbageKind, Image, Silent, Store, ViewError};

use crate::fixture::{Fixture, Node, content, find, ingest, tar};

/// Makes an image of layers: a manifest, a config and a name.
pub(crate) fn tag(store: &Store, name: &str, layers: &[DiffId]) -> Image {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": layers },
    });
    let config = store.images().put_manifest(config.to_string().as_bytes()).expect("a config");
    let entries: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 1,
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 1 },
        "layers": entries,
    });
    let manifest = store.images().put_manifest(manifest.to_string().as_bytes()).expect("a manifest");
    store.images().tag(name, &manifest).expect("a tag");
    store.images().get(name).expect("the image")
}

/// The same store, opened as by another process.
fn reopen(fixture: Fixture) -> (Store, Vec<DiffId>, tempfile::TempDir) {
    let Fixture { store, directory, layers } = fixture;
    drop(store);
    (Store::open(directory.path()).expect("the store"), layers, directory)
}

fn kinds(collected: &layer_store::Collected) -> Vec<GarbageKind> {
    collected.garbage.iter().map(|garbage| garbage.kind).collect()
}

#[test]
fn a_collection_keeps_what_images_need_and_removes_the_rest() {
    let fixture = Fixture::new(&[&[Node::File("kept", "1")], &[Node::File("loose", "2")]]);
    tag(&fixture.store, "registry.example/kept:1", &fixture.layers[..1]);
    let (store, layers, _directory) = reopen(fixture);
    let announced = store.collect(true).expect("a dry run");
    let taken = store.collect(false).expect("a collection");
    assert_eq!(announced, taken, "the dry run says what the run does");
    assert!(taken.garbage.iter().any(|garbage| garbage.name == layers[1].to_string()));
    assert!(taken.bytes > 0);
    assert!(store.layers().has(&layers[0]) && !store.layers().has(&layers[1]));
    assert_eq!(kinds(&store.collect(false).expect("another collection")), []);
}

#[test]
fn a_view_keeps_its_base_and_layers_after_the_name_is_gone() {
    let fixture = Fixture::new(&[&[Node::File("a", "1")], &[Node::File("b", "2")]]);
    tag(&fixture.store, "registry.example/a:1", &fixture.layers);
    let view = fixture.view();
    let (store, layers, _directory) = reopen(fixture);
    store.images().untag("registry.example/a:1").expect("untagged");
    let taken = store.collect(false).expect("a collection");
    assert!(taken.garbage.iter().all(|garbage| garbage.kind == GarbageKind::Manifest), "{taken:?}");
    assert!(store.layers().holders(&layers[0]).expect("holders")[0].contains("process"));
    assert_eq!(content(&view, "b"), "2");
    let base = BaseId::of(&layers, &[]);
    assert_eq!(store.bases().in_use().expect("leases"), BTreeSet::from([base]));
    drop(view);
    assert_eq!(store.bases().in_use().expect("leases"), BTreeSet::new());
    drop(store);
    let store = Store::open(_directory.path()).expect("the store");
    let kinds = kinds(&store.collect(false).expect("a collection"));
    assert!(kinds.contains(&GarbageKind::Layer) && kinds.contains(&GarbageKind::Base), "{kinds:?}");
}

#[test]
fn leftovers_of_killed_processes_are_collected() {
    let fixture = Fixture::new(&[]);
    let root = fixture.store.root();
    fs::write(root.join("leases/0123456789abcdef"), "# a command, process 1\n").expect("a lease");
    fs::create_dir_all(root.join("tmp/0123456789abcdef/x")).expect("a staging directory");
    fs::write(root.join("tmp/0123456789abcdef/x/blob"), "half").expect("half a blob");
    let taken = fixture.store.collect(false).expect("a collection");
    assert_eq!(kinds(&taken), [GarbageKind::Leftover; 2]);
    assert!(!root.join("tmp/0123456789abcdef").exists() && !root.join("leases/0123456789abcdef").exists());
}

/// Changes one byte of a file's content in its blob.
fn damage(store: &Store, layer: &DiffId, content: &str) {
    let path = store.root().join("layers/sha256").join(layer.0.hex()).join("blob");
    let bytes = fs::read(&path).expect("the blob");
    let at = bytes.windows(content.len()).position(|window| window == content.as_bytes()).expect("the content");
    let blob = fs::File::options().write(true).open(&path).expect("the blob");
    blob.write_all_at(b"X", at as u64).expect("written");
}

#[test]
fn verification_names_the_layer_and_the_path_of_damage() {
    let fixture = Fixture::new(&[&[Node::File("d/whole", "untouched"), Node::File("d/broken", "precious")]]);
    let layer = fixture.layers[0];
    assert_eq!(fixture.store.layers().verify(&layer, &Silent).expect("verified"), None);
    damage(&fixture.store, &layer, "precious");
    let found = fixture.store.layers().verify(&layer, &Silent).expect("verified").expect("damage");
    assert_eq!((found.layer, found.paths), (layer, vec!["/d/broken".to_owned()]));
}

#[test]
fn a_verifying_view_refuses_the_damaged_file_and_no_other() {
    let fixture = Fixture::new(&[&[Node::File("d/whole", "untouched"), Node::File("d/broken", "precious")]]);
    damage(&fixture.store, &fixture.layers[0], "precious");
    let view = fixture.view().verifying();
    assert_eq!(content(&view, "d/whole"), "untouched");
    let broken = find(&view, "d/broken").expect("the name");
    let error = view.read(broken, 0, &mut [0; 8]).expect_err("damage");
    assert!(matches!(&error, ViewError::Damaged { path, .. } if path == "/d/broken"), "{error}");
}

#[test]
fn an_exported_image_has_the_same_layers_and_adds_nothing_when_imported_again() {
    let fixture = Fixture::new(&[&[Node::File("a", "1")], &[Node::File("b", "2")]]);
    let image = tag(&fixture.store, "registry.example/a:1", &fixture.layers);
    let out = tempfile::tempdir().expect("a directory");
    let export = |name: &str| fixture.store.images().export(&image, &out.path().join(name), &Silent);
    let manifest = export("layout").expect("exported");
    for layer in &fixture.layers {
        let blob = fs::read(out.path().join("layout/blobs/sha256").join(layer.0.hex())).expect("a layer");
        assert_eq!(ingest(&fixture.store, &blob), *layer);
    }
    assert_eq!(export("layout").expect("it is a layout already"), manifest);
    let index = fs::read_to_string(out.path().join("layout/index.json")).expect("the list of images");
    assert_eq!(index.matches("registry.example/a:1").count(), 1, "an image replaces one with its name: {index}");
    fs::create_dir(out.path().join("other")).expect("a directory");
    fs::write(out.path().join("other/file"), "").expect("a file");
    assert!(export("other").is_err(), "nothing else is overwritten");
}

#[test]
fn a_directory_becomes_a_layer_that_root_owns_and_twice_the_same() {
    let fixture = Fixture::new(&[]);
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("bin")).expect("a directory");
    fs::write(directory.path().join("bin/agent"), "#!/bin/sh\n").expect("a file");
    fs::hard_link(directory.path().join("bin/agent"), directory.path().join("bin/other")).expect("a link");
    let layer = fixture.store.layers().add_directory(directory.path()).expect("a layer");
    let blob = fixture.store.root().join("layers/sha256").join(layer.0.hex()).join("blob");
    let inode = fs::metadata(&blob).expect("the blob").ino();
    assert_eq!(fixture.store.layers().add_directory(directory.path()).expect("a layer"), layer);
    assert_eq!(fs::metadata(&blob).expect("the blob").ino(), inode, "it is not written again");
    let base = fixture.store.bases().prepare_layers(&[], &[layer], &Silent).expect("a base");
    let view = fixture.store.bases().open(&base).expect("a view");
    let agent = view.attr(find(&view, "bin/agent").expect("the agent")).expect("attributes");
    assert_eq!((agent.uid, agent.gid, agent.nlink), (0, 0, 2));
    assert_eq!(find(&view, "bin/other"), Some(agent.ino));
    assert_eq!(content(&view, "bin/other"), "#!/bin/sh\n");
}

#[test]
fn a_layer_that_is_not_what_was_announced_leaves_nothing() {
    let fixture = Fixture::new(&[]);
    let bytes = tar(&[Node::File("a", "1")]);
    let other = layer_store::Digest::of(b"other");
    let wrong = [
        layer_store::ExpectedLayer { compressed: Some(other.into()), diff_id: None },
        layer_store::ExpectedLayer { compressed: None, diff_id: Some(DiffId(other)) },
    ];
    for expected in wrong {
        let error = fixture.store.layers().ingest(&mut &*bytes, &expected).expect_err("a wrong digest");
        assert!(error.to_string().contains(&other.to_string()), "{error}");
    }
    let cut = &bytes[..700];
    let error =
        fixture.store.layers().ingest(&mut &*cut, &layer_store::ExpectedLayer::default()).expect_err("a cut tar");
    assert!(error.to_string().contains("ends within"), "{error}");
    let layers = fs::read_dir(fixture.store.root().join("layers/sha256")).expect("layers");
    assert_eq!(layers.count(), 0);
}
