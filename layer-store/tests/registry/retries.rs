//! Transfers and requests that fail: what is tried again, after how long, and how often.

use std::sync::Arc;
use std::time::Duration;

use layer_store::{Observer, Patience, PullOptions};

use super::support::fake::{Fake, Reply};
use super::support::image::{Image, Layer, Packing, noise, three_layers};
use super::{Notices, Place, options};

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let image = Image::new(vec![Layer::new("a", &noise(1, 900_000), Packing::Gzip)]);
    let digest = image.layers[0].digest();
    let fake = Fake::start(&[&image], move |request| match request.earlier {
        0 if request.path.contains(&digest) => Reply::CutAfter(300_000),
        1 if request.path.contains(&digest) => Reply::StallAfter(300_000),
        _ => Reply::Serve,
    });
    let place = Place::new();
    place.pull(&fake.name("test:0"), &options()).unwrap();
    place.assert_holds(&fake.name("test:0"), &image);
    let ranges: Vec<_> =
        fake.requests(&image.layers[0].digest()).iter().map(|r| r.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned()), Some("bytes=600000-".to_owned())]);
}

#[test]
fn a_server_that_knows_no_ranges_is_asked_from_the_start() {
    let image = Image::new(vec![Layer::new("a", &noise(1, 90_000), Packing::Plain)]);
    let (digest, whole) = (image.layers[0].digest(), image.layers[0].packed.clone());
    // The answer is a `String`, so only plain text arrives unchanged.
    assert!(whole.iter().any(|byte| *byte > 127));
    let text = Image::new(vec![Layer::new("a", "line\n".repeat(20_000).as_bytes(), Packing::Plain)]);
    let body = String::from_utf8(text.layers[0].packed.clone()).unwrap();
    let (digest, text_digest) = (digest, text.layers[0].digest());
    let fake = Fake::start(&[&image, &text], move |request| {
        assert!(!request.path.contains(&digest));
        match request.earlier {
            0 if request.path.contains(&text_digest) => Reply::CutAfter(50_000),
            _ if request.path.contains(&text_digest) => Reply::Answer(200, Vec::new(), body.clone()),
            _ => Reply::Serve,
        }
    });
    let place = Place::new();
    place.pull(&fake.name("test:1"), &options()).unwrap();
    place.assert_holds(&fake.name("test:1"), &text);
}

#[test]
fn a_registry_that_stalls_is_given_up_after_the_attempts_there_are() {
    let image = three_layers(1);
    let fake = Fake::start(&[&image], |request| match request.path.contains("/blobs/") {
        true => Reply::StallAfter(0),
        false => Reply::Serve,
    });
    let patience = Patience { attempts: 3, stall: Duration::from_millis(100), ..options().patience };
    let place = Place::new();
    let error = place.refusal(&fake.name("test:0"), &PullOptions { patience, ..options() });
    assert!(error.contains("sent nothing for 0.1 s"), "{error}");
    assert_eq!(fake.requests("/blobs/").len(), 3, "the config, three times");
    place.assert_empty();
}

#[test]
fn too_many_requests_are_waited_out_as_the_registry_asks() {
    let image = three_layers(1);
    let refuse = |wait: &str| Reply::Answer(429, vec![format!("Retry-After: {wait}")], String::new());
    let fake = Fake::start(&[&image], move |request| match (request.earlier, request.path.ends_with("/v2/")) {
        (0, false) => refuse("0"),
        _ => Reply::Serve,
    });
    let notices = Arc::new(Notices::default());
    let progress: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
    let place = Place::new();
    place.watched(&fake.name("test:0"), &options(), &progress).unwrap();
    place.assert_holds(&fake.name("test:0"), &image);
    assert_eq!(notices.lines().len(), 5, "one for the manifest, the config and each layer: {:?}", notices.lines());

    let fake = Fake::start(&[&image], move |_| refuse("3600"));
    let place = Place::new();
    let error = place.refusal(&fake.name("test:0"), &options());
    assert!(error.contains("try again in 3600 s"), "{error}");
    assert_eq!(fake.requests("/manifests/").len(), 1, "an hour is not waited for");
    place.assert_empty();
}

#[test]
fn a_server_error_is_tried_again_up_to_the_limit() {
    let image = three_layers(1);
    let fake = Fake::start(&[&image], |request| match request.path.contains("/blobs/") && request.earlier < 4 {
        true => Reply::Answer(503, Vec::new(), String::new()),
        false => Reply::Serve,
    });
    Place::new().pull(&fake.name("test:0"), &options()).unwrap();
    let fake = Fake::start(&[&image], |_| Reply::Answer(500, Vec::new(), String::new()));
    let error = Place::new().refusal(&fake.name("test:0"), &options());
    assert!(error.contains("answers 500"), "{error}");
    assert_eq!(fake.requests("/manifests/").len(), 5);
}
