//! An export has the bytes that were imported, for other programs too.

use std::path::Path;
use std::process::Command;

use end_to_end::layout::digest;
use end_to_end::oracle::Unpacked;
use end_to_end::programs::installed;
use end_to_end::{Finished, Image, Inventory, Session, TreeDump, oracle};
use serde_json::Value;

const REFERENCE: &str = "lamina.test/image:1";

/// A session with an image, and the layout that it was exported to.
fn exported(image: Image) -> (Session, std::path::PathBuf) {
    let session = Session::user();
    session.import(&image.layout(), REFERENCE);
    let layout = session.work("exports").join("layout");
    session.ok(["export", REFERENCE, layout.to_str().expect("a plain path")]);
    (session, layout)
}

fn layers(session: &Session, reference: &str) -> Vec<String> {
    let text = session.ok(["inspect", reference, "--json"]);
    let image: Value = serde_json::from_str(&text).expect("inspect --json prints JSON");
    let layers = image["layers"].as_array().expect("layers").iter();
    layers.map(|layer| layer["diff_id"].as_str().or(layer.as_str()).expect("a DiffID").to_owned()).collect()
}

fn json(output: &Finished) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[test]
fn exported_layers_are_the_tars_that_their_diff_ids_name_and_skopeo_and_umoci_read_them() {
    let (session, layout) = exported(Image::Corners);
    let layers = layers(&session, REFERENCE);
    assert_eq!(layers.len(), 4);
    for layer in &layers {
        let blob = std::fs::read(layout.join("blobs").join(layer.replace(':', "/"))).expect("an exported layer");
        assert_eq!(digest(&blob), *layer);
    }
    // They are the ones that the image came with.
    let original = format!("oci:{}:latest", Image::Corners.layout().display());
    let skopeo = |arguments: &[&str]| Finished::of(Command::new(installed("skopeo")).args(arguments)).succeeded();
    assert_eq!(json(&skopeo(&["inspect", "--config", &original]))["rootfs"]["diff_ids"], serde_json::json!(layers));

    let image = format!("oci:{}", layout.display());
    assert_eq!(json(&skopeo(&["inspect", &image]))["Layers"], serde_json::json!(layers));
    let copy = session.work("copy").join("copied.tar");
    skopeo(&["copy", "--quiet", &image, &format!("docker-archive:{}:copy:1", copy.display())]);
    assert!(copy.is_file());

    let unpacked = Unpacked::of(&format!("{}:{REFERENCE}", layout.display()), Path::new("/tmp"));
    let tree = TreeDump::of(&unpacked.root()).expect("the unpacked tree");
    oracle::tree_of(Image::Corners).assert_same(&tree, &[], "the export unpacked by umoci");
}

#[test]
fn import_of_an_export_stores_nothing_new_and_exports_the_same_bytes_and_name() {
    let (session, first) = exported(Image::Corners);
    let base = session.ok(["prepare", REFERENCE]);
    let before = Inventory::of(&session.store());
    session.ok(["import", first.to_str().expect("a plain path"), "--tag", "lamina.test/again:1"]);
    let after = Inventory::of(&session.store());
    assert_eq!(after.layers(), before.layers());
    let added = after.added_since(&before);
    let is_small = |path: &&Path| ["images", "manifests", "compressed"].iter().any(|place| path.starts_with(place));
    // The name, the manifest (which now names plain tars), and the digests that the layers had in transit.
    assert!(added.iter().all(|path| is_small(path) || path.ends_with("sources")), "{added:?}");
    assert_eq!(session.ok(["prepare", "lamina.test/again:1"]), base);

    session.ok(["import", first.to_str().expect("a plain path"), "--tag", REFERENCE]);
    let second = session.work("exports").join("second");
    session.ok(["export", REFERENCE, second.to_str().expect("a plain path")]);
    let difference = Finished::of(Command::new(installed("diff")).arg("-r").arg(&first).arg(&second)).succeeded();
    assert_eq!(difference.stdout, "");

    // In a store that has nothing yet: the same base, and the name with which it was exported.
    let other = Session::user();
    let layout = other.work("imports").join("layout");
    std::fs::rename(&first, &layout).expect("the layout moves");
    other.ok(["import", layout.to_str().expect("a plain path")]);
    assert_eq!(layers(&other, REFERENCE).len(), 4);
    assert_eq!(other.ok(["prepare", REFERENCE]), base);
    session.traces().assert_nothing_left();
}

#[test]
fn export_of_a_damaged_layer_is_refused_and_leaves_nothing() {
    let session = Session::user();
    let layer = end_to_end::layout::Layer::of_files(&[("file", b"content")]);
    session.import(end_to_end::Layout::of(std::slice::from_ref(&layer)).path(), REFERENCE);
    crate::fixture::flip(&crate::blobs::blob(&session, &layer), 600);
    let exports = session.work("exports");
    let finished = session.run(["export", REFERENCE, exports.join("layout").to_str().expect("a plain path")]);
    finished.refused(&layer.diff_id());
    assert_eq!(std::fs::read_dir(&exports).expect("the directory").count(), 0, "nothing is left");
    session.traces().assert_nothing_left();
}
