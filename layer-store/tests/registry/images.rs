//! What a pull brings in: layers of every packing, each once; the platform asked for; documents of every kind; what it reports.

use std::sync::Arc;

use layer_store::{Digest, Observer, PullOptions, Store};
use serde_json::json;

use super::support::fake::{Fake, Reply};
use super::support::image::{
    INDEX, Image, Layer, Packing, blob_path, entry, go_architecture, noise, three_layers, write_layout,
};
use super::support::registry::Registry;
use super::{Notices, Place, fetched, options, patient};

#[test]
fn layers_of_every_packing_come_in_verified_and_once() {
    let registry = Registry::plain();
    let image = three_layers(1);
    registry.push(&image, "team/app:1");
    let (place, name) = (Place::new(), registry.name("team/app:1"));
    let acquired = place.pull(&name, &patient()).unwrap();
    assert_eq!(fetched(&acquired), [true, true, true]);
    assert_eq!(acquired.manifest_digest.to_string(), image.digest());
    place.assert_holds(&name, &image);
    let manifest = place.root().join("manifests/sha256").join(acquired.manifest_digest.hex());
    assert_eq!(std::fs::read(manifest).unwrap(), image.manifest, "kept verbatim");

    let again = place.pull(&name, &patient()).unwrap();
    assert_eq!(fetched(&again), [false, false, false]);
    let store = Store::open(place.root()).unwrap();
    let sources = store.layers().sources(&acquired.layers[0].diff_id);
    assert_eq!(sources, [acquired.layers[0].source.clone()]);
    assert_eq!(sources[0].compressed.to_string(), image.layers[0].digest());
}

#[test]
fn an_image_that_shares_layers_fetches_only_the_others() {
    let shared = three_layers(1);
    let mut layers = shared.layers.clone();
    layers[2] = Layer::new("var/lib/state", &noise(9, 1000), Packing::Gzip);
    // The same tar under another compressed digest is the same layer.
    layers[0] = Layer { packed: layers[0].tar.clone(), packing: Packing::Plain, tar: layers[0].tar.clone() };
    let other = Image::new(layers);
    let fake = Fake::start(&[&shared, &other], |_| Reply::Serve);
    let place = Place::new();
    place.pull(&fake.name("test:0"), &options()).unwrap();
    let before = fake.requests("/blobs/").len();
    let acquired = place.pull(&fake.name("test:1"), &options()).unwrap();
    assert_eq!(fetched(&acquired), [false, false, true]);
    assert_eq!(fake.requests("/blobs/").len() - before, 2, "the config and one layer");
    place.assert_holds(&fake.name("test:1"), &other);
}

#[test]
fn pulling_again_asks_only_what_the_tag_means() {
    let image = three_layers(1);
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    let place = Place::new();
    place.pull(&fake.name("test:0"), &options()).unwrap();
    let (blobs, manifests) = (fake.requests("/blobs/").len(), fake.requests("/manifests/").len());
    assert_eq!((blobs, manifests), (4, 1), "the config and three layers");
    place.pull(&fake.name("test:0"), &options()).unwrap();
    place.pull(&fake.name(&format!("test@{}", image.digest())), &options()).unwrap();
    assert_eq!((fake.requests("/blobs/").len(), fake.requests("/manifests/").len()), (4, 2));
    place.assert_holds(&fake.name(&format!("test@{}", image.digest())), &image);
}

#[test]
fn a_layer_that_an_image_names_twice_is_fetched_once() {
    let layer = Layer::new("a", &noise(4, 50_000), Packing::Gzip);
    let image = Image::new(vec![layer.clone(), Layer::new("b", b"b", Packing::Gzip), layer]);
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    let place = Place::new();
    place.pull(&fake.name("test:0"), &options()).unwrap();
    assert_eq!(fake.requests(&image.layers[0].digest()).len(), 1);
    place.assert_holds(&fake.name("test:0"), &image);
}

#[test]
fn a_layer_that_an_image_names_several_times_is_fetched_once() {
    let (base, empty) = (Layer::new("a", &noise(1, 40_000), Packing::Gzip), Layer::empty(Packing::Gzip));
    let plain = Layer::of_tar(base.tar.clone(), Packing::Plain);
    for layers in [vec![base.clone(); 3], vec![empty.clone(), base.clone(), empty.clone(), empty], vec![base, plain]] {
        let image = Image::new(layers);
        let fake = Fake::start(&[&image], |_| Reply::Serve);
        let (place, name) = (Place::new(), fake.name("test:0"));
        let acquired = place.pull(&name, &options()).unwrap();
        assert_eq!(acquired.layers.len(), image.layers.len());
        place.assert_holds(&name, &image);
        let mut distinct = image.diff_ids();
        distinct.sort();
        distinct.dedup();
        let blobs: Vec<String> = image.layers.iter().map(Layer::digest).collect();
        let fetched = fake
            .requests("/blobs/")
            .iter()
            .filter(|request| blobs.iter().any(|blob| request.path.contains(blob)))
            .count();
        assert_eq!(fetched, distinct.len());
        let again = place.pull(&name, &options()).unwrap();
        assert!(again.layers.iter().all(|layer| layer.was_present));
    }
}

#[test]
fn pulls_of_one_image_at_the_same_time_fetch_each_layer_once() {
    let image = three_layers(5);
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    let place = Place::new();
    Store::open(place.root()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| place.pull(&fake.name("test:0"), &patient()).unwrap());
        }
    });
    for layer in &image.layers {
        assert_eq!(fake.requests(&layer.digest()).len(), 1);
    }
    place.assert_holds(&fake.name("test:0"), &image);
}

#[test]
fn an_index_gives_the_platform_of_the_host_or_the_one_asked_for() {
    let layer = |text: &str| vec![Layer::new("arch", text.as_bytes(), Packing::Gzip)];
    let host = Image::new(layer("host"));
    let other = Image::for_platform(layer("s390x"), "s390x");
    let layout = tempfile::tempdir().unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&other, None), entry(&host, None)]});
    let index = index.to_string().into_bytes();
    write_layout(layout.path(), &[&host, &other], &[]);
    let digest = Digest::of(&index).to_string();
    std::fs::write(blob_path(layout.path(), &digest), &index).unwrap();
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": INDEX, "digest": digest, "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": "it"},
    }]});
    std::fs::write(layout.path().join("index.json"), top.to_string()).unwrap();
    let registry = Registry::plain();
    registry.copy(&format!("oci:{}:it", layout.path().display()), "many:1", &["--all", "--preserve-digests"]);

    let (place, name) = (Place::new(), registry.name("many:1"));
    let acquired = place.pull(&name, &patient()).unwrap();
    assert_eq!(acquired.manifest_digest.to_string(), host.digest());
    assert_eq!(acquired.platform.to_string(), format!("linux/{}", go_architecture()));
    let asked = PullOptions { platform: Some("linux/s390x".parse().unwrap()), ..patient() };
    assert_eq!(place.pull(&name, &asked).unwrap().manifest_digest.to_string(), other.digest());
    let pinned = registry.name(&format!("many@{digest}"));
    assert_eq!(place.pull(&pinned, &patient()).unwrap().manifest_digest.to_string(), host.digest());

    let absent = PullOptions { platform: Some("linux/riscv64".parse().unwrap()), ..patient() };
    let error = place.refusal(&name, &absent);
    assert!(error.contains("no image for linux/riscv64; there is linux/s390x, linux/"), "{error}");
}

#[test]
fn an_image_for_another_platform_is_taken_with_a_notice_unless_one_was_asked_for() {
    let image = Image::for_platform(vec![Layer::new("a", b"a", Packing::Gzip)], "s390x");
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    let place = Place::new();
    let asked = PullOptions { platform: Some("linux/amd64".parse().unwrap()), ..options() };
    let error = place.refusal(&fake.name("test:0"), &asked);
    assert!(error.contains("no image for linux/amd64; there is linux/s390x"), "{error}");
    place.assert_empty();
    let notices = Arc::new(Notices::default());
    let progress: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
    place.watched(&fake.name("test:0"), &options(), &progress).unwrap();
    assert!(notices.lines()[0].contains("is for linux/s390x"), "{:?}", notices.lines());
}

#[test]
fn docker_s_own_manifests_are_read() {
    let registry = Registry::plain();
    let image = Image::new(vec![Layer::new("a", &noise(3, 5000), Packing::Gzip)]);
    let layout = tempfile::tempdir().unwrap();
    write_layout(layout.path(), &[&image], &[entry(&image, Some("it"))]);
    registry.copy(&format!("oci:{}:it", layout.path().display()), "old:1", &["--format", "v2s2"]);
    let place = Place::new();
    place.pull(&registry.name("old:1"), &patient()).unwrap();
    place.assert_holds(&registry.name("old:1"), &image);
    let store = Store::open(place.root()).unwrap();
    let media_type =
        store.images().get(&registry.name("old:1")).unwrap().manifest.media_type().clone().unwrap().to_string();
    assert_eq!(media_type, "application/vnd.docker.distribution.manifest.v2+json");
}

#[test]
fn progress_ends_with_every_byte_of_every_layer() {
    let image = three_layers(1);
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    let notices = Arc::new(Notices::default());
    let progress: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
    Place::new().watched(&fake.name("test:0"), &options(), &progress).unwrap();
    for layer in &image.layers {
        let (state, bytes) = notices.last(&layer.digest()[7..19]);
        assert_eq!((state.as_str(), bytes), ("Done", layer.packed.len() as u64));
    }
}
