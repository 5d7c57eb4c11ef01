//! Garbage collection: what is used stays, everything else goes, and a dry run reports what a run does.

use std::path::Path;

use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Inventory, Session};
use layer_store::FaultPoint;
use rustix::process::Signal;
use serde_json::Value;

use super::{Images, top};

const IMAGE: &str = "lamina.test/image:1";
const OTHER: &str = "lamina.test/other:1";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The layers that a collection names in its JSON.
fn layers(collected: &Value) -> Vec<&str> {
    let garbage = collected["garbage"].as_array().expect("a list of garbage").iter();
    garbage.filter(|each| each["kind"] == "layer").filter_map(|each| each["name"].as_str()).collect()
}

#[test]
fn dry_run_says_what_the_run_does() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    session.import(images.second.path(), OTHER);
    let directory = top(&session, "a variant");
    session.ok(["prepare", IMAGE]);
    session.ok(["prepare", OTHER, "--layer", directory.to_str().unwrap()]);
    session.ok(["rmi", IMAGE]);
    let before = sound_layers(&session.store());
    let said = session.json(["gc", "--dry-run", "--json"]);
    assert_eq!(sound_layers(&session.store()), before, "a dry run removes nothing");
    let done = session.json(["gc", "--json"]);
    assert_eq!(said, done);
    // The layer of the removed image and that of the variant; the shared one stays.
    assert_eq!(layers(&done).len(), 2, "{done}");
    assert_eq!(sound_layers(&session.store()).len(), before.len() - 2);
    let nothing = session.json(["gc", "--dry-run", "--json"]);
    assert_eq!(nothing["garbage"], Value::Array(Vec::new()));
    session.ok(["prepare", OTHER]);
}

#[test]
fn removing_an_image_says_what_only_it_had() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    session.import(images.second.path(), OTHER);
    let unique = |reference: &str| {
        let usage = session.json(["du", "--json"]);
        let images = usage["images"].as_array().expect("a list of images").clone();
        images.iter().find(|image| image["reference"] == reference).expect("the image")["unique"].as_u64().unwrap()
    };
    let own = unique(IMAGE);
    let removed = session.json(["rmi", IMAGE, "--json"]);
    assert_eq!(removed["frees"], own);
    assert!((60_000..400_000).contains(&own), "its own layer and not the shared one: {own}");
    let collected = session.json(["gc", "--json"]);
    assert!(collected["bytes"].as_u64().unwrap() >= own, "{collected}");
    // Now no image shares the other layer.
    let all = unique(OTHER);
    assert!(all > 400_000, "{all}");
    assert!(session.ok(["rmi", OTHER]).contains("lamina gc"));
}

#[test]
fn moved_tag_keeps_what_a_mount_uses_and_explain_names_who_holds_it() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let point = session.mount(IMAGE, "mounted");
    let tree = session.tree(&point).to_string();
    let own = own_layer(&session, IMAGE);
    let explain = ["gc", "--explain", &own];
    let mount = format!("a mount of {IMAGE} on {}", point.display());
    let held = session.ok(explain);
    assert!(held.contains(&mount) && held.contains(&format!("image {IMAGE}")), "{held}");

    session.import(images.second.path(), IMAGE);
    session.ok(["gc"]);
    assert_eq!(session.tree(&point).to_string(), tree);
    let held = session.ok(explain);
    assert!(held.contains(&mount) && !held.contains("image "), "{held}");

    session.umount(&point);
    session.traces().assert_nothing_left();
    assert!(session.ok(explain).starts_with("nothing: "));
    session.ok(["gc"]);
    session.run(explain).refused(&own);
    assert_eq!(sound_layers(&session.store()).len(), 2);
}

#[test]
fn image_that_cannot_be_read_loses_nothing_to_a_collection() {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let base = session.ok(["prepare", IMAGE]);
    let documents = fs::read_dir(session.store().join("manifests/sha256")).expect("the documents");
    let documents: Vec<_> = documents.map(|document| document.expect("a document").path()).collect();
    for document in documents {
        let before = Inventory::of(&session.store());
        let whole = fs::read(&document).expect("a document");
        for is_damaged in [true, false] {
            if is_damaged {
                fs::write(&document, b"{").expect("a damaged document");
            } else {
                fs::set_permissions(&document, PermissionsExt::from_mode(0o000))
                    .expect("a document that cannot be read");
            }
            let collected = session.run(["gc"]).succeeded();
            assert!(collected.stderr.contains(&format!("lamina rmi {IMAGE}")), "{collected}");
            let explained = session.ok(["gc", "--explain", &sound_layers(&session.store())[0]]);
            assert!(explained.contains(IMAGE), "{explained}");
            fs::set_permissions(&document, PermissionsExt::from_mode(0o644)).expect("a document");
            fs::write(&document, &whole).expect("a document");
            assert_eq!(Inventory::of(&session.store()), before);
        }
        // What cannot be repaired can be removed, and the next import repairs the others.
        fs::write(&document, b"{").expect("a damaged document");
        session.import(images.first.path(), IMAGE);
        assert_eq!(session.run(["gc"]).succeeded().stderr, "");
        assert_eq!(session.ok(["prepare", IMAGE]), base);
    }
    session.ok(["rmi", IMAGE]);
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()), Vec::<String>::new());
}

#[test]
fn damaged_name_stops_no_other_image_and_the_next_import_mends_it() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let name = std::fs::read_dir(session.store().join("images")).expect("the names").next().expect("a name");
    let name = name.expect("a name").path();
    session.import(images.second.path(), OTHER);
    for damage in [&b"{"[..], b"", br#"{"reference":"x"}"#] {
        std::fs::write(&name, damage).expect("a damaged name");
        let before = Inventory::of(&session.store());
        let listed = session.run(["images", "--json"]).succeeded();
        assert_eq!(json(&listed.stdout).as_array().expect("a list of images").len(), 1);
        let hex = name.file_name().expect("a name").to_string_lossy().into_owned();
        for command in [&["images"][..], &["du"], &["gc"]] {
            let said = session.run(command).succeeded();
            assert!(said.stderr.contains(&hex), "{said}");
        }
        let verified = session.run(["verify"]);
        assert_eq!(verified.status.code(), Some(1), "{verified}");
        assert!(verified.stdout.contains(&hex) && verified.stdout.contains("2 layers are intact"), "{verified}");
        session.ok(["prepare", OTHER]);
        let taken = before.added_since(&Inventory::of(&session.store()));
        assert_eq!(taken, Vec::<&Path>::new(), "a collection takes nothing");
        session.import(images.first.path(), IMAGE);
        session.ok(["prepare", IMAGE]);
        assert_eq!(session.run(["gc"]).succeeded().stderr, "");
        assert_eq!(sound_layers(&session.store()).len(), 3);
    }
    // A name that cannot be read can be removed, too.
    std::fs::write(&name, b"{").expect("a damaged name");
    session.ok(["rmi", IMAGE]);
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()).len(), 2);
}

/// The top layer of an image.
fn own_layer(session: &Session, reference: &str) -> String {
    let inspected = session.json(["inspect", reference, "--json"]);
    let layers = inspected["layers"].as_array().expect("a list of layers");
    layers.last().expect("a layer")["diff_id"].as_str().expect("a DiffID").to_owned()
}

#[test]
fn process_that_stands_still_loses_nothing_to_a_collection() {
    use FaultPoint as P;
    let images = Images::new();
    let first = images.first.path().to_str().unwrap();
    // One layer at a time: no other thread holds the store's lock when the process stops.
    let import = ["import", first, "--tag", IMAGE, "--parallel=1"];
    let prepare = ["prepare", IMAGE];
    // Only points at which the store's lock is not held: at others the collection waits.
    let steps: [(&[&str], &[FaultPoint]); 3] = [
        (&import, &[P::LayerClaimed, P::BlobBegun, P::BlobWritten, P::LayerStaged, P::LayerKept, P::ImageStaged]),
        (&prepare, &[P::BaseClaimed, P::BaseStaged, P::RecipePublished, P::BasePublished]),
        (&["gc"], &[P::GarbageAside, P::GarbageFirstDeleted]),
    ];
    for (arguments, points) in steps {
        for &point in points {
            let session = Session::user();
            if arguments != import {
                session.ok(import);
            }
            if arguments == ["gc"] {
                session.ok(prepare);
                session.ok(["rmi", IMAGE]);
            }
            let still = session.start(session.faulty(point, true, arguments));
            still.await_stop();
            // A process that prepares an image holds it, whatever happens to its name.
            if arguments == prepare {
                session.ok(["rmi", IMAGE]);
            }
            session.ok(["gc"]);
            still.signal(Signal::CONT);
            let finished = still.finish();
            assert!(finished.status.success(), "{point:?}: {finished}");
            session.ok(import);
            session.ok(prepare);
            session.ok(["gc"]);
            assert_eq!(sound_layers(&session.store()).len(), 2, "{point:?}");
            assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new(), "{point:?}");
        }
    }
}
