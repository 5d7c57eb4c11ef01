//! Logins, tokens and certificates.

use std::sync::Arc;

use layer_store::PullOptions;
use serde_json::json;

use super::support::fake::{Fake, Reply};
use super::support::image::three_layers;
use super::support::registry::Registry;
use super::support::skopeo;
use super::{Place, options, patient};

#[test]
fn tls_needs_the_ca_and_a_private_image_the_login() {
    let registry = Registry::secure();
    let image = three_layers(1);
    registry.push(&image, "private:1");
    let (place, name) = (Place::new(), registry.name("private:1"));
    let error = place.refusal(&name, &patient());
    assert!(error.contains("cannot trust the registry localhost:"), "{error}");

    let trusting = PullOptions { ca_file: Some(registry.ca_file()), ..patient() };
    let error = place.refusal(&name, &trusting);
    assert!(error.contains("denied") && error.contains(&format!("log in to localhost:{}", registry.port)), "{error}");
    place.assert_empty();

    let by_address = format!("127.0.0.1:{}/private:1", registry.port);
    assert!(place.refusal(&by_address, &trusting).contains("denied"), "the address is in the certificate");
    let logins = registry.directory().join("auth.json");
    let host = format!("localhost:{}", registry.port);
    let certificates = registry.directory().join("certs.d");
    let authfile = logins.display().to_string();
    let login = ["login", "--authfile", &authfile, "--cert-dir", certificates.to_str().unwrap(), "-u", "alice"];
    skopeo(&[&login[..], &["-p", "s3cret", &host]].concat());
    let known = PullOptions { credential_files: Some(vec![logins.clone()]), ..trusting.clone() };
    place.pull(&name, &known).unwrap();
    place.assert_holds(&name, &image);

    let wrong = std::fs::read_to_string(&logins).unwrap().replace("YWxpY2U6czNjcmV0", "YWxpY2U6d3Jvbmc=");
    std::fs::write(&logins, wrong).unwrap();
    let error = place.refusal(&registry.name("private:2"), &known);
    assert!(error.contains("refuses the login of alice"), "{error}");
}

#[test]
fn a_token_is_fetched_once_and_again_when_it_expires() {
    let image = three_layers(1);
    let realm = Arc::new(std::sync::OnceLock::<u16>::new());
    let port = Arc::clone(&realm);
    let fake = Fake::start(&[&image], move |request| {
        if request.path.starts_with("/token") {
            return Reply::Answer(200, Vec::new(), format!("{{\"token\": \"t{}\"}}", request.earlier));
        }
        // The first token is good for the manifest only.
        let wanted = if request.path.contains("/manifests/") { "Bearer t0" } else { "Bearer t1" };
        if request.headers.get("authorization").is_some_and(|header| header == wanted) {
            return Reply::Serve;
        }
        let realm = format!("http://127.0.0.1:{}/token", port.get().unwrap());
        Reply::Answer(401, vec![format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"")], String::new())
    });
    realm.set(fake.port).unwrap();
    let place = Place::new();
    place.pull(&fake.name("test:0"), &options()).unwrap();
    place.assert_holds(&fake.name("test:0"), &image);
    let tokens = fake.requests("/token");
    assert_eq!(tokens.len(), 2, "{tokens:?}");
    assert!(tokens[0].path.contains("scope=repository%3Atest%3Apull") && tokens[0].path.contains("service=s"));

    let logins = place.root().join("auth.json");
    let entry = json!({"auths": {(format!("127.0.0.1:{}", fake.port)): {"identitytoken": "refresh"}}});
    std::fs::write(&logins, entry.to_string()).unwrap();
    let known = PullOptions { credential_files: Some(vec![logins]), ..options() };
    let _ = Place::new().pull(&fake.name("test:0"), &known);
    let exchange = fake.requests("/token").pop().unwrap();
    assert_eq!(exchange.method, "POST");
    assert!(exchange.body.contains("refresh_token=refresh") && exchange.body.contains("grant_type=refresh_token"));
}

#[test]
fn a_token_service_that_is_busy_is_asked_again_and_one_that_refuses_is_believed() {
    let image = three_layers(1);
    let port = Arc::new(std::sync::OnceLock::<u16>::new());
    let own = Arc::clone(&port);
    let fake = Fake::start(&[&image], move |request| {
        let login = request.headers.get("authorization").is_some_and(|header| header.starts_with("Basic"));
        if request.path.starts_with("/token") && login {
            return Reply::Answer(
                401,
                Vec::new(),
                r#"{"errors":[{"code":"DENIED","message":"no such user"}]}"#.to_owned(),
            );
        }
        if request.path.starts_with("/token") {
            let busy = Reply::Answer(503, Vec::new(), String::new());
            return if request.earlier < 2 {
                busy
            } else {
                Reply::Answer(200, Vec::new(), r#"{"token":"t"}"#.to_owned())
            };
        }
        if request.headers.contains_key("authorization") {
            return Reply::Serve;
        }
        let realm = format!("http://127.0.0.1:{}/token", own.get().unwrap());
        Reply::Answer(401, vec![format!("WWW-Authenticate: Bearer realm=\"{realm}\"")], String::new())
    });
    port.set(fake.port).unwrap();
    let place = Place::new();
    place.pull(&fake.name("test:0"), &options()).unwrap();
    assert_eq!(fake.requests("/token").len(), 3);

    let logins = place.root().join("auth.json");
    let entry = json!({"auths": {(format!("127.0.0.1:{}", fake.port)): {"username": "bob", "password": "x"}}});
    std::fs::write(&logins, entry.to_string()).unwrap();
    let known = PullOptions { credential_files: Some(vec![logins]), ..options() };
    let error = Place::new().refusal(&fake.name("test:0"), &known);
    assert!(error.contains("refuses the login of bob (no such user)"), "{error}");
    assert_eq!(fake.requests("/token").len(), 4, "a wrong password is not tried again");
}
