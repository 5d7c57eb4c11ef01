//! What a pull refuses, and what the message names.

use std::sync::Arc;

use layer_store::{Cancellation, Digest, Observer, PullError, PullOptions, Store};
use serde_json::json;

use super::support::fake::{Fake, HttpRequest, Reply};
use super::support::image::{INDEX, Image, Layer, Packing, entry, noise, three_layers};
use super::support::names;
use super::support::registry::Registry;
use super::{Notices, Place, options, patient};

#[test]
fn what_is_not_there_is_named() {
    let registry = Registry::plain();
    registry.push(&three_layers(1), "app:1");
    let place = Place::new();
    let error = place.refusal(&registry.name("app:2"), &patient());
    assert!(error.contains("app:2 is not in the registry") && error.contains("check the name and the tag"), "{error}");
    let error = place.refusal(&registry.name("absent:1"), &patient());
    assert!(error.contains("absent:1 is not in the registry"), "{error}");
    let digest = format!("app@sha256:{}", "0".repeat(64));
    let error = place.refusal(&registry.name(&digest), &patient());
    assert!(error.contains(&digest), "{error}");
    place.assert_empty();
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let place = Place::new();
    // Port 1 of this host: no process listens.
    let notices = Arc::new(Notices::default());
    let progress: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
    let error = place.watched("localhost:1/app:1", &options(), &progress).unwrap_err().to_string();
    assert!(error.contains("cannot reach the registry localhost:1") && error.contains("refused"), "{error}");
    assert_eq!(notices.lines(), [""; 0], "one line is enough");
    let error = place.refusal("registry.invalid/app:1", &options());
    assert!(error.contains("cannot reach the registry registry.invalid"), "{error}");
    place.assert_empty();
}

#[test]
fn a_layer_changed_in_the_registry_is_refused() {
    let registry = Registry::plain();
    let place = Place::new();
    for (number, position) in [(0, 1000), (1, 1000), (2, 70_000)] {
        let image = three_layers(10 + number as u64);
        let name = registry.name(&format!("app:{number}"));
        registry.push(&image, &format!("app:{number}"));
        let digest = image.layers[number].digest();
        let path = registry.blob_path(&digest);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[position] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = place.refusal(&name, &patient());
        assert!(error.contains(&format!("layer {digest}")), "{error}");
        let store = Store::open(place.root()).unwrap();
        assert!(!store.layers().has(&image.diff_ids()[number].parse().unwrap()));
        assert!(store.images().list().unwrap().is_empty());
    }
    assert_eq!(names(&place.root().join("tmp")), [""; 0]);
}

#[test]
fn a_layer_cut_short_in_the_registry_is_refused() {
    let registry = Registry::plain();
    let image = Image::new(vec![Layer::new("a", &noise(7, 90_000), Packing::Gzip)]);
    registry.push(&image, "app:1");
    let path = registry.blob_path(&image.layers[0].digest());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..40_000]).unwrap();
    let place = Place::new();
    let notices = Arc::new(Notices::default());
    let progress: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
    let error = place.watched(&registry.name("app:1"), &patient(), &progress).unwrap_err().to_string();
    assert_eq!(notices.lines(), [""; 0], "it says so at once");
    assert!(error.contains("40000 bytes") && error.contains("push it again"), "{error}");
    place.assert_empty();
}

#[test]
fn documents_that_are_not_what_was_named_are_refused() {
    let (image, other) = (three_layers(1), three_layers(2));
    let lying = String::from_utf8(other.manifest.clone()).unwrap();
    let (digest, config) = (image.digest(), Digest::of(&image.config).to_string());
    let fake = Fake::start(&[&image], move |request: &HttpRequest| {
        let lies = request.path.ends_with(&digest) || request.path.ends_with(&config);
        if lies { Reply::Answer(200, Vec::new(), lying.clone()) } else { Reply::Serve }
    });
    let place = Place::new();
    let error = place.refusal(&fake.name(&format!("test@{}", image.digest())), &options());
    assert!(error.contains("manifest: the digest is"), "{error}");
    let error = place.refusal(&fake.name("test:0"), &options());
    assert!(error.contains("config sha256:"), "{error}");
    place.assert_empty();
}

#[test]
fn a_manifest_without_end_is_not_read_to_its_end() {
    let fake = Fake::start(&[], |_| Reply::Answer(200, Vec::new(), " ".repeat(5 << 20)));
    let error = Place::new().refusal(&fake.name("test:0"), &options());
    assert!(error.contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn a_layer_longer_than_promised_is_refused() {
    let mut image = three_layers(1);
    let manifest = String::from_utf8(image.manifest.clone()).unwrap();
    let real = format!("\"size\":{}", image.layers[0].packed.len());
    image.manifest = manifest.replace(&real, "\"size\":1000").into_bytes();
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    let place = Place::new();
    let error = place.refusal(&fake.name("test:0"), &options());
    assert!(error.contains("its manifest says 1000"), "{error}");
    assert_eq!(names(&place.root().join("images")), [""; 0]);
}

#[test]
fn an_index_whose_entry_lies_is_refused() {
    let image = three_layers(1);
    let mut entry = entry(&image, None);
    entry["size"] = json!(image.manifest.len() + 1);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    let fake = Fake::with_index(&[&image], index.as_bytes());
    let error = Place::new().refusal(&fake.name("test:index"), &options());
    assert!(error.contains(&format!("manifest {}", image.digest())), "{error}");
}

#[test]
fn a_cancelled_pull_ends_and_leaves_nothing() {
    let image = three_layers(1);
    // Everything that is asked for stalls once: the manifest in the first round, the layers in the second.
    for part in ["/manifests/", "/blobs/sha256:"] {
        let config = Digest::of(&image.config).to_string();
        let cancellation = Cancellation::default();
        let pressed = cancellation.clone();
        let fake = Fake::start(&[&image], move |request| {
            if request.path.contains(part) && !request.path.contains(&config) {
                pressed.cancel();
                return Reply::StallAfter(if part == "/manifests/" { 0 } else { 50_000 });
            }
            Reply::Serve
        });
        let observer: Arc<dyn Observer> = Arc::new(cancellation);
        let place = Place::new();
        let error = place.watched(&fake.name("test:0"), &patient(), &observer).unwrap_err();
        assert!(matches!(error, PullError::Cancelled), "{error}");
        place.assert_empty();
    }
}

#[test]
fn a_bad_ca_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    for (content, hint) in [(None, "No such file"), (Some("no certificate"), "no certificate")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let options = PullOptions { ca_file: Some(path.clone()), ..options() };
        let error = Place::new().refusal("registry.invalid/app:1", &options);
        assert!(error.contains("ca.pem") && error.contains(hint), "{error}");
    }
}
