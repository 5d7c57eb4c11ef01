//! Transfers that break off: what the next request asks for, and what is kept when the process has ended.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use layer_store::{Observer, Patience, PullOptions, Store};

use super::support::fake::{Fake, HttpRequest, Reply};
use super::support::image::{Image, Layer, Packing, noise};
use super::support::names;
use super::{Notices, Place, options};

fn big() -> Image {
    Image::new(vec![Layer::new("a", &noise(1, 300_000), Packing::Gzip)])
}

/// The answer of a server that breaks off the first transfer of the layer and treats ranges as `ranged` says, which is
/// called with the first byte that is wanted and the bytes of the layer.
fn breaking(image: &Image, ranged: impl Fn(usize, &[u8]) -> Reply + Send + Sync + 'static) -> Fake {
    let (digest, bytes) = (image.layers[0].digest(), image.layers[0].packed.clone());
    let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    Fake::start(&[image], move |request: &HttpRequest| {
        if !request.path.contains(&digest) {
            return Reply::Serve;
        }
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        match range.and_then(|range| range.split('-').next()?.parse().ok()) {
            Some(start) => ranged(start, &bytes),
            None if first.swap(false, std::sync::atomic::Ordering::Relaxed) => Reply::CutAfter(200_000),
            None => Reply::Serve,
        }
    })
}

fn partial(range: &str, body: &[u8]) -> Reply {
    Reply::Bytes(206, vec![format!("Content-Range: bytes {range}")], body.to_vec())
}

#[test]
fn a_failed_resume_is_no_verdict_on_the_layer() {
    type Ranged = Box<dyn Fn(usize, &[u8]) -> Reply + Send + Sync>;
    let mut servers: Vec<(String, Ranged)> = Vec::new();
    for status in [400, 403, 404, 405, 412, 416, 500, 501, 503] {
        let answer = move |_: usize, _: &[u8]| Reply::Answer(status, Vec::new(), String::new());
        servers.push((format!("answers {status}"), Box::new(answer)));
    }
    let more: Vec<(&str, Ranged)> = vec![
        ("sends everything", Box::new(|_, all| Reply::Bytes(200, Vec::new(), all.to_vec()))),
        (
            "sends the rest as if it were everything",
            Box::new(|start, all| Reply::Bytes(200, Vec::new(), all[start..].to_vec())),
        ),
        (
            "starts earlier",
            Box::new(|start, all| {
                partial(&format!("{}-{}/{}", start / 2, all.len() - 1, all.len()), &all[start / 2..])
            }),
        ),
        (
            "starts later",
            Box::new(|start, all| {
                partial(&format!("{}-{}/{}", start + 10, all.len() - 1, all.len()), &all[start + 10..])
            }),
        ),
        ("means another file", Box::new(|start, all| partial(&format!("{start}-{}/*", all.len() + 9), &all[start..]))),
        (
            "sends small parts",
            Box::new(|start, all| {
                let end = (start + 30_000).min(all.len());
                partial(&format!("{start}-{}/{}", end - 1, all.len()), &all[start..end])
            }),
        ),
        (
            "says nothing about what it sends",
            Box::new(|start, all| Reply::Bytes(206, Vec::new(), all[start..].to_vec())),
        ),
        (
            "sends other bytes than it says",
            Box::new(|start, all| {
                partial(&format!("{start}-{}/{}", all.len() - 1, all.len()), &all[..all.len() - start])
            }),
        ),
        ("sends nothing", Box::new(|_, _| Reply::Bytes(206, Vec::new(), Vec::new()))),
    ];
    servers.extend(more.into_iter().map(|(name, ranged)| (name.to_owned(), ranged)));
    for (name, ranged) in servers {
        let image = big();
        let fake = breaking(&image, ranged);
        let place = Place::new();
        place.pull(&fake.name("test:0"), &options()).unwrap_or_else(|error| panic!("a server that {name}: {error}"));
        place.assert_holds(&fake.name("test:0"), &image);
        assert!(fake.requests(&image.layers[0].digest()).len() < 12, "a server that {name}");
    }
}

#[test]
fn a_server_that_never_gets_further_is_given_up() {
    let image = big();
    let digest = image.layers[0].digest();
    let fake = Fake::start(&[&image], move |request| match request.path.contains(&digest) {
        true if request.headers.contains_key("range") => Reply::Answer(416, Vec::new(), String::new()),
        true => Reply::CutAfter(100_000),
        false => Reply::Serve,
    });
    let error = Place::new().refusal(&fake.name("test:0"), &options());
    assert!(error.contains("broke off"), "{error}");
    assert_eq!(fake.requests(&image.layers[0].digest()).len(), 7, "five failures, and two other ways to ask");
}

/// A pull that ends after 200,000 bytes of the layer, as if its process had ended.
fn interrupted(place: &Place, image: &Image) {
    let fake = breaking(image, |_, _| Reply::Serve);
    let patience = Patience { attempts: 1, ..options().patience };
    place.refusal(&fake.name("test:0"), &PullOptions { patience, ..options() });
    assert_eq!(names(&place.root().join("partial/sha256")).len(), 1);
    let usage = Store::open(place.root()).unwrap().usage().unwrap();
    assert!(usage.partial >= 200_000, "{usage:?}");
}

#[test]
fn an_interrupted_pull_goes_on_where_it_was_after_its_process_has_ended() {
    let (place, image) = (Place::new(), big());
    interrupted(&place, &image);
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    place.pull(&fake.name("test:0"), &options()).unwrap();
    let requests = fake.requests(&image.layers[0].digest());
    let ranges: Vec<_> = requests.iter().map(|request| request.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [Some("bytes=200000-".to_owned())]);
    place.assert_holds(&fake.name("test:0"), &image);
    assert_eq!(names(&place.root().join("partial/sha256")), [""; 0], "it is not needed any more");
}

#[test]
fn what_was_kept_and_is_damaged_is_fetched_again_whole() {
    let (place, image) = (Place::new(), big());
    interrupted(&place, &image);
    let kept = place.root().join("partial/sha256").join(&names(&place.root().join("partial/sha256"))[0]);
    let mut bytes = fs::read(&kept).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let notices = Arc::new(Notices::default());
    let observer: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
    let fake = Fake::start(&[&image], |_| Reply::Serve);
    place.watched(&fake.name("test:0"), &options(), &observer).unwrap();
    place.assert_holds(&fake.name("test:0"), &image);
    assert!(notices.lines()[0].contains("fetching all of it again"), "{:?}", notices.lines());
}

#[test]
fn what_was_kept_is_collected_when_it_is_stale_and_not_before() {
    let (place, image) = (Place::new(), big());
    interrupted(&place, &image);
    let directory = place.root().join("partial/sha256");
    let kept = directory.join(&names(&directory)[0]);
    let store = Store::open(place.root()).unwrap();
    store.collect(false).unwrap();
    assert!(kept.exists(), "somebody may pull again soon");
    let file = File::options().write(true).open(&kept).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(25 * 60 * 60)).unwrap();
    file.lock().unwrap();
    store.collect(false).unwrap();
    assert!(kept.exists(), "a process goes on with it");
    drop(file);
    let collected = store.collect(false).unwrap();
    assert!(!kept.exists() && collected.bytes >= 200_000, "{collected:?}");
}

#[test]
fn a_layer_that_is_damaged_at_its_registry_is_not_kept() {
    let mut image = big();
    let (place, digest) = (Place::new(), image.layers[0].digest());
    image.layers[0].packed[150_000] ^= 1;
    let (path, damaged) = (digest, image.layers[0].packed.clone());
    let fake = Fake::start(&[&big()], move |request| match request.path.contains(&path) {
        true => Reply::Bytes(200, Vec::new(), damaged.clone()),
        false => Reply::Serve,
    });
    let error = place.refusal(&fake.name("test:0"), &options());
    assert!(error.contains("layer sha256:"), "{error}");
    assert_eq!(names(&place.root().join("partial/sha256")), [""; 0]);
    assert_eq!(fake.requests("/blobs/").len(), 2, "the config and the layer, once");
}
