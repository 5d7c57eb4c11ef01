//! Storages, token services and foreign servers: which of them a message names, and which get a login.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::support::fake::{Fake, HttpRequest, Reply};
use super::support::image::{Image, Layer, Packing, noise, three_layers};
use super::{Place, options};

/// A registry that answers requests for layers and configs with a redirect to `address`.
fn redirecting(image: &Image, address: &str) -> Fake {
    let location = format!("Location: {address}?X-Signature=s3cret");
    Fake::start(&[image], move |request| match request.path.contains("/blobs/") {
        true => Reply::Answer(307, vec![location.clone()], String::new()),
        false => Reply::Serve,
    })
}

fn answering(status: u16) -> Fake {
    let body = r#"<Error><Code>AccessDenied</Code></Error>"#;
    Fake::start(&[], move |_| Reply::Answer(status, Vec::new(), body.to_owned()))
}

#[test]
fn a_storage_that_fails_is_named_and_not_its_registry() {
    let image = three_layers(1);
    let registry = redirecting(&image, "http://127.0.0.1:1/data");
    let error = Place::new().refusal(&registry.name("test:0"), &options());
    let expected = format!("cannot reach the storage of the registry 127.0.0.1:{} at 127.0.0.1:1: ", registry.port);
    assert!(error.starts_with(&expected) && !error.contains("s3cret"), "{error}");
    for status in [400, 401, 403, 404, 410] {
        let storage = answering(status);
        let registry = redirecting(&image, &format!("http://127.0.0.1:{}/data", storage.port));
        let error = Place::new().refusal(&registry.name("test:0"), &options());
        assert!(error.contains(&format!("at 127.0.0.1:{} answers {status}", storage.port)), "{error}");
        for wrong in ["s3cret", "log in", "check the name", "denied"] {
            assert!(!error.contains(wrong), "{error}");
        }
        assert!(storage.requests("").iter().all(|request| !request.headers.contains_key("authorization")));
    }
}

#[test]
fn a_storage_that_breaks_off_is_named() {
    let image = three_layers(1);
    let storage = Fake::start(&[&image], |_| Reply::Answer(503, Vec::new(), String::new()));
    let registry = redirecting(&image, &format!("http://127.0.0.1:{}/data", storage.port));
    let error = Place::new().refusal(&registry.name("test:0"), &options());
    assert!(error.contains(&format!("at 127.0.0.1:{} answers 503", storage.port)), "{error}");
    assert_eq!(storage.requests("").len(), 5, "it is tried again");
}

#[test]
fn a_storage_gets_no_login_of_its_registry() {
    let image = three_layers(1);
    let storage = Fake::start(&[&image], |_| {
        Reply::Answer(401, vec!["WWW-Authenticate: Basic realm=\"x\"".to_owned()], String::new())
    });
    let location = format!("Location: http://127.0.0.1:{}/data", storage.port);
    let registry = Fake::start(&[&image], move |request| match request.headers.contains_key("authorization") {
        false => Reply::Answer(401, vec!["WWW-Authenticate: Basic realm=\"x\"".to_owned()], String::new()),
        true if request.path.contains("/blobs/") => Reply::Answer(307, vec![location.clone()], String::new()),
        true => Reply::Serve,
    });
    let place = Place::new();
    let logins = place.root().join("auth.json");
    let entry = json!({"auths": {(format!("127.0.0.1:{}", registry.port)): {"auth": "dXNlcjpwYXNzd29yZA=="}}});
    std::fs::write(&logins, entry.to_string()).unwrap();
    let known = layer_store::PullOptions { credential_files: Some(vec![logins]), ..options() };
    let error = place.refusal(&registry.name("test:0"), &known);
    assert!(error.contains("answers 401"), "{error}");
    assert!(storage.requests("").iter().all(|request| !request.headers.contains_key("authorization")));
}

/// A registry that sends everybody to the token service at `realm`, or to one of its own.
fn with_tokens(image: &Image, challenges: &'static [&'static str], token: &'static str) -> Fake {
    let port = Arc::new(OnceLock::<u16>::new());
    let own = Arc::clone(&port);
    let fake = Fake::start(&[image], move |request: &HttpRequest| {
        if request.path.starts_with("/token") {
            return match request.headers.contains_key("authorization") {
                true => Reply::Answer(401, Vec::new(), String::new()),
                false => Reply::Answer(200, Vec::new(), token.to_owned()),
            };
        }
        if request.headers.get("authorization").is_some_and(|header| header == "Bearer t") {
            return Reply::Serve;
        }
        let own = own.get().map_or(0, |port| *port).to_string();
        let lines = challenges.iter().map(|line| format!("WWW-Authenticate: {}", line.replace("PORT", &own)));
        Reply::Answer(401, lines.collect(), String::new())
    });
    port.set(fake.port).unwrap();
    fake
}

#[test]
fn every_challenge_is_tried_until_one_can_be_met() {
    const BEARER: &str = r#"Bearer realm="http://127.0.0.1:PORT/token",service="s""#;
    let image = three_layers(1);
    for challenges in [
        &[BEARER][..],
        &["Negotiate", "Basic realm=\"x\"", BEARER],
        &["Negotiate YII=, Basic realm=\"x\", Bearer realm=http://127.0.0.1:PORT/token,service=s"],
        &[BEARER, "Basic realm=\"x\""],
        &[r#"Bearer realm="http://127.0.0.1:PORT/v2/nothing""#, BEARER],
    ] {
        let fake = with_tokens(&image, challenges, r#"{"token": "t"}"#);
        let place = Place::new();
        place.pull(&fake.name("test:0"), &options()).unwrap_or_else(|error| panic!("{challenges:?}: {error}"));
        place.assert_holds(&fake.name("test:0"), &image);
    }
}

#[test]
fn a_token_service_that_fails_is_named() {
    let image = three_layers(1);
    for (challenge, token, named) in [
        (r#"Bearer realm="http://127.0.0.1:1/token?secret=s3cret""#, "", " at 127.0.0.1:1: "),
        (r#"Bearer realm="http://127.0.0.1:PORT/token""#, "<html>", "it sends no token"),
        (r#"Bearer realm="ftp://x""#, "", "the address of its token service is not valid"),
    ] {
        let challenges: &'static [&'static str] = Box::leak(Box::new([challenge]));
        let fake = with_tokens(&image, challenges, token);
        let error = Place::new().refusal(&fake.name("test:0"), &options());
        assert!(error.contains("token service") && error.contains(named), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn an_odd_login_does_not_stop_a_public_pull() {
    let image = three_layers(1);
    let challenge = &[r#"Bearer realm="http://127.0.0.1:PORT/token""#];
    for entry in [
        json!({"auth": "", "email": ""}),
        json!({"auth": "!"}),
        json!({"auth": null}),
        json!({"auth": 7}),
        json!([]),
        json!("x"),
    ] {
        let fake = with_tokens(&image, challenge, r#"{"token": "t"}"#);
        let place = Place::new();
        let logins = place.root().join("auth.json");
        let config = json!({
            "auths": {(format!("127.0.0.1:{}", fake.port)): entry}, "credsStore": "that-nobody-has",
        });
        std::fs::write(&logins, config.to_string()).unwrap();
        let files = Some(vec![place.root().to_owned(), logins]);
        let known = layer_store::PullOptions { credential_files: files, ..options() };
        place.pull(&fake.name("test:0"), &known).unwrap_or_else(|error| panic!("{entry}: {error}"));
    }
}

#[test]
fn a_login_that_cannot_be_used_is_named_when_one_is_needed() {
    let image = three_layers(1);
    let fake = Fake::start(&[&image], |_| {
        Reply::Answer(401, vec!["WWW-Authenticate: Basic realm=\"x\"".to_owned()], String::new())
    });
    let place = Place::new();
    let logins = place.root().join("auth.json");
    let config = json!({"auths": {(format!("127.0.0.1:{}", fake.port)): {"auth": "!"}}});
    std::fs::write(&logins, config.to_string()).unwrap();
    let known = layer_store::PullOptions { credential_files: Some(vec![logins]), ..options() };
    let error = place.refusal(&fake.name("test:0"), &known);
    assert!(error.contains("denied") && error.contains("auth.json: the entry for 127.0.0.1:"), "{error}");
}

/// An image with one layer of a foreign type, which is at `urls`.
fn foreign(media_type: &str, urls: &[String]) -> Image {
    let mut image = Image::new(vec![Layer::new("a", &noise(1, 90_000), Packing::Gzip)]);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["mediaType"] = json!(media_type);
    manifest["layers"][0]["urls"] = json!(urls);
    image.manifest = manifest.to_string().into_bytes();
    image
}

/// A registry without the layer of `image`.
fn without_layer(image: &Image) -> Fake {
    let digest = image.layers[0].digest();
    Fake::start(&[image], move |request| match request.path.contains(&digest) {
        true => Reply::Answer(404, Vec::new(), String::new()),
        false => Reply::Serve,
    })
}

#[test]
fn a_foreign_layer_is_fetched_from_its_registry_or_from_where_the_image_says() {
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let plain = foreign(media_type, &[]);
        let bytes = plain.layers[0].packed.clone();
        let elsewhere = Fake::start(&[], move |request| match request.earlier {
            0 => Reply::Answer(503, Vec::new(), String::new()),
            _ => Reply::Bytes(200, Vec::new(), bytes.clone()),
        });
        let dead = "http://127.0.0.1:1/dead".to_owned();
        let urls = ["ftp://nowhere/x".to_owned(), dead, format!("http://127.0.0.1:{}/layer", elsewhere.port)];
        let image = foreign(media_type, &urls);
        let place = Place::new();
        let registry = without_layer(&image);
        place.pull(&registry.name("test:0"), &options()).unwrap();
        place.assert_holds(&registry.name("test:0"), &image);
        assert!(elsewhere.requests("").iter().all(|request| !request.headers.contains_key("authorization")));

        let (place, registry) = (Place::new(), Fake::start(&[&image], |_| Reply::Serve));
        place.pull(&registry.name("test:0"), &options()).unwrap();
        assert_eq!(elsewhere.requests("").len(), 2, "the registry has it this time");
    }
}

#[test]
fn a_foreign_layer_is_proved_like_any_other() {
    let wrong = Fake::start(&[], |_| Reply::Bytes(200, Vec::new(), vec![0; 1000]));
    let urls = [format!("http://127.0.0.1:{}/layer", wrong.port)];
    let image = foreign("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &urls);
    let error = Place::new().refusal(&without_layer(&image).name("test:0"), &options());
    assert!(error.contains(&format!("127.0.0.1:{}", wrong.port)) && error.contains("outside the registry"), "{error}");
    let image = foreign("application/vnd.oci.image.layer.v1.tar+gzip", &urls);
    let error = Place::new().refusal(&without_layer(&image).name("test:0"), &options());
    assert!(error.contains("is not in the registry"), "only foreign layers may be elsewhere: {error}");
    assert_eq!(wrong.requests("").len(), 1);
}
