//! Pulls from a real docker-registry, and from one that misbehaves.

mod odd_images;
mod policy;
mod proxies;
mod resume;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layer_store::{
    Acquired, Cancellation, Digest, LayerProgress, Observer, Patience, PullError, PullOptions, Reference, Silent, Store,
};
use serde_json::json;
use support::fake::{Fake, HttpRequest, Reply};
use support::image::{
    INDEX, Image, Layer, Packing, blob_path, entry, go_architecture, noise, three_layers, write_layout,
};
use support::registry::Registry;
use support::{names, run, skopeo};
use tempfile::TempDir;

/// Short waits, and no logins of the user that runs the test.
fn options() -> PullOptions {
    PullOptions {
        patience: Patience {
            stall: Duration::from_millis(400),
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_secs(5),
            ..Patience::default()
        },
        credential_files: Some(Vec::new()),
        ..PullOptions::default()
    }
}

/// The default of a user, where a slow host must not make the test fail.
fn patient() -> PullOptions {
    PullOptions { credential_files: Some(Vec::new()), ..PullOptions::default() }
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn pull(&self, name: &str, options: &PullOptions) -> Result<Acquired, PullError> {
        self.watched(name, options, &(Arc::new(Silent) as Arc<dyn Observer>))
    }

    fn watched(&self, name: &str, options: &PullOptions, progress: &Arc<dyn Observer>) -> Result<Acquired, PullError> {
        let reference: Reference = name.parse().unwrap();
        Store::open(self.root()).unwrap().images().pull(&reference, options, progress)
    }

    fn refusal(&self, name: &str, options: &PullOptions) -> String {
        let error = self.pull(name, options).expect_err(name).to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    /// What a failed pull must not have changed.
    fn assert_empty(&self) {
        for directory in ["images", "layers/sha256", "manifests/sha256", "tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }

    fn assert_holds(&self, name: &str, image: &Image) {
        let store = Store::open(self.root()).unwrap();
        let reference: Reference = name.parse().unwrap();
        let kept = store.images().get(&reference.to_string()).unwrap();
        assert_eq!(kept.layers.iter().map(ToString::to_string).collect::<Vec<_>>(), image.diff_ids());
        for layer in &image.layers {
            let hex = Digest::of(&layer.tar).hex();
            let blob = std::fs::read(self.root().join("layers/sha256").join(hex).join("blob")).unwrap();
            assert!(blob == layer.tar, "the blob is the tar, byte for byte");
        }
        drop(store);
        for directory in ["tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }
}

fn fetched(acquired: &Acquired) -> Vec<bool> {
    acquired.layers.iter().map(|layer| !layer.was_present).collect()
}

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
fn tls_needs_the_ca_and_a_private_image_the_login() {
    let registry = Registry::secure();
    let image = three_layers(1);
    registry.push(&image, "private:1");
    let (place, name) = (Place::new(), registry.name("private:1"));
    let error = place.refusal(&name, &patient());
    assert!(error.contains("cannot trust the registry localhost:"), "{error}");

    let trusting = PullOptions { ca_file: Some(registry.ca_file()), ..patient() };
    let error = place.refusal(&name, &trusting);
    assert!(
        error.contains("denied") && error.contains(&format!("skopeo login localhost:{}", registry.port)),
        "{error}"
    );
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
    // Plain text survives the answer's `String`.
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

/// Keeps what a pull tells.
#[derive(Debug, Default)]
struct Notices {
    lines: std::sync::Mutex<Vec<String>>,
    layers: std::sync::Mutex<Vec<(String, String, u64)>>,
}

impl Notices {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn last(&self, name: &str) -> (String, u64) {
        let layers = self.layers.lock().unwrap();
        let (_, state, bytes) = layers.iter().rev().find(|(known, ..)| known == name).unwrap();
        (state.clone(), *bytes)
    }
}

impl Observer for Notices {
    fn layer(&self, progress: &LayerProgress<'_>) {
        let mut layers = self.layers.lock().unwrap();
        layers.push((progress.name.to_owned(), format!("{:?}", progress.state), progress.bytes));
    }

    fn notice(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
}

/// The programs that these tests need are there: said once, by name.
#[test]
fn the_programs_that_these_tests_need_are_installed() {
    for program in ["skopeo", "openssl"] {
        run(program, &[if program == "openssl" { "version" } else { "--version" }]);
    }
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
