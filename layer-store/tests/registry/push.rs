//! What a push sends: the manifest that was pulled and its layers as they came, or else a new manifest that says so.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use layer_store::{Observer, Packing as Pack, PullOptions, PushError, PushOptions, Pushed, Silent, Store, Transfer};
use serde_json::{Value, json};

use super::support::fake::{Fake, Reply};
use super::support::image::{
    INDEX, Image, Layer, Packing, blob_path, digest, entry, go_architecture, noise, three_layers, write_layout,
};
use super::support::registry::Registry;
use super::{Notices, Place, options, patient};

fn push_options() -> PushOptions {
    PushOptions { registry: patient(), ..PushOptions::default() }
}

impl Place {
    fn push(&self, name: &str, to: &str, options: &PushOptions) -> Result<Pushed, PushError> {
        self.push_watched(name, to, options, &(Arc::new(Silent) as Arc<dyn Observer>))
    }

    fn push_watched(
        &self,
        name: &str,
        to: &str,
        options: &PushOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Pushed, PushError> {
        let store = Store::open(self.root()).unwrap();
        let name: layer_store::Reference = name.parse().unwrap();
        let image = store.images().get(&name.to_string()).unwrap();
        store.images().push(&image, &to.parse().unwrap(), options, observer)
    }
}

fn transfers(pushed: &Pushed) -> Vec<Transfer> {
    pushed.layers.iter().map(|layer| layer.transfer).collect()
}

/// What skopeo reads at a name of a registry without TLS.
fn inspected(name: &str, raw: bool) -> Vec<u8> {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--tls-verify=false"]).args(raw.then_some("--raw")).arg(format!("docker://{name}"));
    let output = command.output().expect("skopeo");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// skopeo verifies every digest on the way.
fn skopeo_copies(name: &str) {
    let layout = tempfile::tempdir().unwrap();
    let target = format!("oci:{}:it", layout.path().display());
    super::support::skopeo(&["copy", "--src-tls-verify=false", "-q", &format!("docker://{name}"), &target]);
}

#[test]
fn an_image_that_was_pulled_is_pushed_byte_for_byte_and_then_nothing_is_sent_again() {
    let (from, to) = (Registry::plain(), Registry::plain());
    let image = three_layers(1);
    from.push(&image, "team/app:1");
    let place = Place::new();
    place.pull(&from.name("team/app:1"), &patient()).unwrap();
    let pushed = place.push(&from.name("team/app:1"), &to.name("copy/app:2"), &push_options()).unwrap();
    assert_eq!((pushed.digest.to_string(), pushed.is_new), (image.digest(), false));
    assert_eq!(transfers(&pushed), [Transfer::Sent; 3]);
    assert_eq!(inspected(&to.name("copy/app:2"), true), image.manifest);
    for layer in &image.layers {
        assert_eq!(std::fs::read(to.blob_path(&layer.digest())).unwrap(), layer.packed);
    }
    skopeo_copies(&to.name("copy/app:2"));

    let again = place.push(&from.name("team/app:1"), &to.name("copy/app:3"), &push_options()).unwrap();
    assert_eq!(transfers(&again), [Transfer::Present; 3]);
    let beside = place.push(&from.name("team/app:1"), &to.name("other:1"), &push_options()).unwrap();
    assert_eq!(transfers(&beside), [Transfer::Mounted; 3], "from the other repository");
    let back = place.push(&from.name("team/app:1"), &from.name("new:1"), &push_options()).unwrap();
    assert_eq!(transfers(&back), [Transfer::Mounted; 3], "from where it was pulled");
    let by_digest = from.name(&format!("new@{}", image.digest()));
    assert_eq!(
        place.push(&from.name("team/app:1"), &by_digest, &push_options()).unwrap().digest.to_string(),
        image.digest()
    );
    let wrong = from.name(&format!("new@sha256:{}", "0".repeat(64)));
    let error = place.push(&from.name("team/app:1"), &wrong, &push_options()).unwrap_err();
    assert!(error.to_string().contains("promises a digest that the image does not have"), "{error}");

    // What was pushed is pulled into an empty store, and found by its digest.
    let fresh = Place::new();
    fresh.pull(&to.name("copy/app:2"), &patient()).unwrap();
    fresh.assert_holds(&to.name("copy/app:2"), &image);
    fresh.assert_holds(&to.name(&format!("copy/app@{}", image.digest())), &image);
}

#[test]
fn layers_that_cannot_be_had_again_are_compressed_under_a_new_manifest_that_says_so() {
    let image = three_layers(2);
    let from = Registry::plain();
    from.push(&image, "app:1");
    let (place, name) = (Place::new(), from.name("app:1"));
    place.pull(&name, &patient()).unwrap();
    // From now on the registry cannot be asked.
    drop(from);
    let to = Registry::plain();
    let keeping = PushOptions { preserve_digests: true, registry: options(), ..PushOptions::default() };
    let error = place.push(&name, &to.name("app:1"), &keeping).unwrap_err().to_string();
    assert!(error.contains("the manifest cannot be kept") && error.contains("cannot reach"), "{error}");

    for (packing, suffix) in [(Pack::Gzip, "+gzip"), (Pack::Zstd, "+zstd")] {
        let notices = Arc::new(Notices::default());
        let observer: Arc<dyn Observer> = Arc::clone(&notices) as Arc<dyn Observer>;
        let options = PushOptions { packing, registry: options(), ..PushOptions::default() };
        let target = to.name(&format!("app:{packing}"));
        let pushed = place.push_watched(&name, &target, &options, &observer).unwrap();
        assert!(pushed.is_new && pushed.digest.to_string() != image.digest());
        let said = notices.lines().join("\n");
        assert!(
            said.contains("cannot be had again") && said.contains(&format!("the manifest is {}", pushed.digest)),
            "{said}"
        );
        let manifest: Value = serde_json::from_slice(&inspected(&target, true)).unwrap();
        let types: Vec<&str> =
            manifest["layers"].as_array().unwrap().iter().map(|l| l["mediaType"].as_str().unwrap()).collect();
        assert!(types.iter().any(|media_type| media_type.ends_with(suffix)), "{types:?}");
        skopeo_copies(&target);
        let fresh = Place::new();
        fresh.pull(&target, &patient()).unwrap();
        fresh.assert_holds(&target, &image);

        let again = place.push(&name, &target, &options).unwrap();
        assert_eq!(again.digest, pushed.digest, "the same tar becomes the same bytes");
        assert!(transfers(&again).iter().all(|transfer| *transfer == Transfer::Present), "{again:?}");
    }
}

#[test]
fn a_layer_that_an_image_only_claims_to_have_is_in_no_new_manifest() {
    let (image, evil) =
        (Image::new(vec![Layer::new("a", &noise(5, 9000), Packing::Gzip)]), Layer::new("a", b"evil", Packing::Gzip));
    // It says that its layer is the one of the other image, and has another one.
    let mut claiming = Image::new(image.layers.clone());
    let mut manifest: Value = serde_json::from_slice(&claiming.manifest).unwrap();
    manifest["layers"][0]["digest"] = json!(evil.digest());
    manifest["layers"][0]["size"] = json!(evil.packed.len());
    claiming.manifest = manifest.to_string().into_bytes();
    claiming.layers = vec![evil.clone()];
    let (from, to) = (Registry::plain(), Registry::plain());
    from.push(&image, "app:1");
    to.push(&claiming, "evil:1");
    let (place, name) = (Place::new(), from.name("app:1"));
    place.pull(&name, &patient()).unwrap();
    place.pull(&to.name("evil:1"), &patient()).unwrap();
    drop(from);
    let options = PushOptions { registry: options(), ..PushOptions::default() };
    for target in ["evil:2", "other:1"] {
        let pushed = place.push(&name, &to.name(target), &options).unwrap();
        assert!(pushed.is_new && pushed.layers[0].digest.to_string() != evil.digest(), "{pushed:?}");
        let fresh = Place::new();
        fresh.pull(&to.name(target), &patient()).unwrap();
        fresh.assert_holds(&to.name(target), &image);
    }
}

#[test]
fn another_compression_is_forced() {
    let registry = Registry::plain();
    let image = three_layers(3);
    registry.push(&image, "app:1");
    let (place, name) = (Place::new(), registry.name("app:1"));
    place.pull(&name, &patient()).unwrap();
    let options = PushOptions { packing: Pack::Zstd, force_packing: true, ..push_options() };
    let pushed = place.push(&name, &registry.name("app:zstd"), &options).unwrap();
    let manifest: Value = serde_json::from_slice(&inspected(&registry.name("app:zstd"), true)).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(layer["mediaType"].as_str().unwrap().ends_with("+zstd"), "{layer}");
    }
    assert_eq!(transfers(&pushed)[1], Transfer::Present, "it was compressed with zstd before");
}

/// Writes an index of two images and an attestation, and returns it.
fn write_index(layout: &Path, images: &[&Image], attestation: &Image) -> Vec<u8> {
    let mut about = entry(attestation, None);
    about["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    about["annotations"] = json!({
        "vnd.docker.reference.digest": images[0].digest(), "vnd.docker.reference.type": "attestation-manifest",
    });
    let entries: Vec<Value> = images.iter().map(|image| entry(image, None)).chain([about]).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into_bytes();
    write_layout(layout, &[images, &[attestation]].concat(), &[]);
    std::fs::write(blob_path(layout, &digest(&index)), &index).unwrap();
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": INDEX, "digest": digest(&index), "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": "it"},
    }]});
    std::fs::write(layout.join("index.json"), top.to_string()).unwrap();
    index
}

/// A manifest whose only layer is a document.
fn attestation() -> Image {
    let mut image = Image::new(vec![Layer::of_tar(b"{\"_type\": \"statement\"}".to_vec(), Packing::Plain)]);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.in-toto+json");
    image.manifest = manifest.to_string().into_bytes();
    image
}

#[test]
fn all_platforms_come_in_stay_and_go_out_with_their_index() {
    let layer = |text: &str| vec![Layer::new("arch", text.as_bytes(), Packing::Gzip)];
    let (host, other) = (Image::new(layer("host")), Image::for_platform(layer("s390x"), "s390x"));
    let (layout, attestation) = (tempfile::tempdir().unwrap(), attestation());
    let index = write_index(layout.path(), &[&host, &other], &attestation);
    let (from, to) = (Registry::plain(), Registry::plain());
    from.copy(&format!("oci:{}:it", layout.path().display()), "many:1", &["--all", "--preserve-digests"]);

    // Found by the digest of the index, and by that of the manifest, after a pull by tag.
    let one = Place::new();
    one.pull(&from.name("many:1"), &patient()).unwrap();
    for promised in [digest(&index), host.digest()] {
        one.assert_holds(&from.name(&format!("many@{promised}")), &host);
    }
    let error = Store::open(one.root()).unwrap().images().get(&from.name(&format!("other@{}", digest(&index))));
    assert!(error.is_err(), "a digest is found in its own repository only");

    let (place, name) = (Place::new(), from.name("many:1"));
    let all = PullOptions { all_platforms: true, ..patient() };
    let acquired = place.pull(&name, &all).unwrap();
    assert_eq!(acquired.platform.to_string(), format!("linux/{}", go_architecture()));
    assert_eq!(acquired.others.len(), 1);
    // A pull of one platform keeps the others, and a collection too.
    place.pull(&name, &patient()).unwrap();
    let store = Store::open(place.root()).unwrap();
    store.collect(false).unwrap();
    drop(store);
    let store = Store::open(place.root()).unwrap();
    let image = store.images().get(&name).unwrap();
    let found = store.images().for_platform(&image, &"linux/s390x".parse().unwrap()).unwrap().unwrap();
    assert_eq!(found.manifest_digest.to_string(), other.digest());
    assert!(found.layers.iter().all(|layer| store.layers().verify(layer, &Silent).unwrap().is_none()));
    let by_digest = store.images().get(&from.name(&format!("many@{}", other.digest()))).unwrap();
    assert_eq!(by_digest.manifest_digest.to_string(), other.digest());
    let usage = store.usage().unwrap();
    assert!(usage.layers.iter().all(|layer| !layer.images.is_empty()), "{usage:?}");
    drop(store);

    let every = PushOptions { all_platforms: true, ..push_options() };
    let pushed = place.push(&name, &to.name("copy:1"), &every).unwrap();
    assert_eq!((pushed.digest.to_string(), pushed.is_new), (digest(&index), false));
    assert_eq!(inspected(&to.name("copy:1"), true), index);
    let target = tempfile::tempdir().unwrap();
    let copied = format!("oci:{}:it", target.path().display());
    let source = format!("docker://{}", to.name("copy:1"));
    super::support::skopeo(&["copy", "--all", "--preserve-digests", "-q", "--src-tls-verify=false", &source, &copied]);

    // One platform only: the index cannot be kept, and is not with its digest.
    let partial = one.push(&name, &to.name("partial:1"), &every).unwrap();
    assert!(partial.is_new);
    let listed: Value = serde_json::from_slice(&inspected(&to.name("partial:1"), true)).unwrap();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 1);
    let keeping = PushOptions { preserve_digests: true, ..every };
    let error = one.push(&name, &to.name("kept:1"), &keeping).unwrap_err();
    assert!(matches!(error, PushError::Incomplete(_)), "{error}");
}

/// A registry in memory that takes uploads.
#[derive(Default)]
struct Uploads {
    /// Bytes of the upload so far.
    bytes: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    begun: usize,
    patches: usize,
    questions: usize,
}

/// What a registry does with an upload that has broken off.
#[derive(Clone, Copy, Debug, Default)]
struct Continues {
    /// It cannot be continued.
    never: bool,
    /// So many questions how much of it there is fail.
    after_questions: usize,
    /// The first request that continues it is answered as if no byte had come.
    after_nothing: bool,
    /// So many requests are read and then answered as if no byte had come, before one breaks off.
    nothing: usize,
}

/// Waits that are short after a failure, and long for an answer: a busy host takes its time to receive megabytes.
fn prompt() -> PullOptions {
    let first_wait = options().patience.first_wait;
    PullOptions { patience: layer_store::Patience { first_wait, ..patient().patience }, ..patient() }
}

/// How many bytes the first upload gets through.
const BROKEN_OFF: usize = 2_000_000;

/// Starts a registry that breaks off the first upload with this status.
fn breaking_off(status: u16, continues: Continues) -> (Arc<Mutex<Uploads>>, Fake) {
    let state: Arc<Mutex<Uploads>> = Arc::default();
    let shared = Arc::clone(&state);
    let fake = Fake::start(&[], move |request| {
        let mut state = shared.lock().unwrap();
        let path = request.path.clone();
        let location = "Location: /v2/app/blobs/uploads/1".to_owned();
        let range = |state: &Uploads| format!("Range: 0-{}", state.bytes.len().max(1) - 1);
        let answer = |status, lines| Reply::Answer(status, lines, String::new());
        match request.method.as_str() {
            "HEAD" => answer(if state.blobs.keys().any(|blob| path.ends_with(blob)) { 200 } else { 404 }, vec![]),
            "POST" => {
                state.bytes.clear();
                state.begun += 1;
                answer(202, vec![location])
            }
            "PATCH" => {
                state.patches += 1;
                let start = request
                    .headers
                    .get("content-range")
                    .map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
                assert_eq!(start, state.bytes.len(), "an upload goes on where the registry stands");
                if state.patches <= continues.nothing {
                    return answer(status, vec![location, range(&state)]);
                }
                if state.patches == continues.nothing + 1 {
                    state.bytes.extend(&request.bytes[..BROKEN_OFF]);
                    return answer(status, vec![]);
                }
                if !(continues.after_nothing && state.patches == 2) {
                    state.bytes.extend(&request.bytes);
                }
                answer(202, vec![location, range(&state)])
            }
            "GET" if continues.never => answer(404, vec![]),
            "GET" => {
                state.questions += 1;
                match state.questions > continues.after_questions {
                    true => answer(204, vec![location, range(&state)]),
                    false => answer(503, vec![]),
                }
            }
            "PUT" if path.contains("/manifests/") => answer(201, vec![]),
            "PUT" => {
                let named = path.split("digest=").nth(1).unwrap().replace("%3A", ":");
                assert_eq!(named, digest(&state.bytes), "what arrived is the blob");
                let bytes = std::mem::take(&mut state.bytes);
                state.blobs.insert(named, bytes);
                answer(201, vec![])
            }
            _ => answer(405, vec![]),
        }
    });
    (state, fake)
}

/// How many uploads went on after their beginning.
fn continued(fake: &Fake) -> usize {
    fake.requests("/uploads/").iter().filter(|request| request.headers.contains_key("content-range")).count()
}

/// Returns a store with an image of one layer, and the registry that it came from.
fn with_one_large_layer() -> (Registry, Place, Image) {
    let image = Image::new(vec![Layer::new("a", &noise(7, 3_000_000), Packing::Gzip)]);
    let from = Registry::plain();
    from.push(&image, "app:1");
    let place = Place::new();
    place.pull(&from.name("app:1"), &patient()).unwrap();
    (from, place, image)
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_the_registry_stands() {
    let (from, place, image) = with_one_large_layer();
    for never in [false, true] {
        let (state, fake) = breaking_off(500, Continues { never, ..Continues::default() });
        let options = PushOptions { registry: prompt(), ..PushOptions::default() };
        let pushed = place.push(&from.name("app:1"), &fake.name("app:1"), &options).unwrap();
        assert_eq!(pushed.digest.to_string(), image.digest());
        let state = state.lock().unwrap();
        assert_eq!(state.blobs[&image.layers[0].digest()], image.layers[0].packed);
        assert_eq!(continued(&fake), usize::from(!never), "the registry says whether it can go on");
    }
}

#[test]
fn an_upload_is_continued_although_the_registry_fails_for_a_moment() {
    let (from, place, image) = with_one_large_layer();
    let options = PushOptions { registry: prompt(), ..PushOptions::default() };
    let questions = |after_questions| Continues { after_questions, ..Continues::default() };
    let nothing = Continues { after_nothing: true, ..Continues::default() };
    // The last one never answers the question, so the upload begins again.
    for (continues, begun) in [(questions(2), 1), (nothing, 1), (questions(usize::MAX), 2)] {
        let (state, fake) = breaking_off(500, continues);
        place.push(&from.name("app:1"), &fake.name("app:1"), &options).unwrap();
        let state = state.lock().unwrap();
        assert_eq!(state.blobs[&image.layers[0].digest()], image.layers[0].packed, "{continues:?}");
        // The config is the other blob.
        assert_eq!(state.begun, begun + 1, "{continues:?}");
    }
    // The same for an upload that an earlier push has left.
    let (state, fake) = breaking_off(400, questions(2));
    let push = || place.push(&from.name("app:1"), &fake.name("app:1"), &options);
    push().unwrap_err();
    assert_eq!(state.lock().unwrap().begun, 1);
    push().unwrap();
    assert_eq!((continued(&fake), state.lock().unwrap().begun), (1, 2), "only that of the config begins");
}

#[test]
fn only_bytes_that_the_registry_keeps_are_progress_of_an_upload() {
    let (from, place, _) = with_one_large_layer();
    let push = |fake: &Fake, attempts| {
        let prompt = prompt();
        let registry = PullOptions { patience: layer_store::Patience { attempts, ..prompt.patience }, ..prompt };
        place.push(&from.name("app:1"), &fake.name("app:1"), &PushOptions { registry, ..PushOptions::default() })
    };
    for status in [202, 502] {
        let (state, fake) = breaking_off(status, Continues { nothing: 30, ..Continues::default() });
        push(&fake, 3).unwrap_err();
        assert_eq!(state.lock().unwrap().patches, 3, "status {status}");
    }
    // The last attempt makes progress, so it is not the last.
    let (_state, fake) = breaking_off(502, Continues { nothing: 1, ..Continues::default() });
    push(&fake, 2).unwrap();
    assert_eq!(continued(&fake), 1);
}

#[test]
fn a_push_that_ended_is_continued_by_the_next_one() {
    let (from, place, image) = with_one_large_layer();
    for never in [false, true] {
        let (state, fake) = breaking_off(400, Continues { never, ..Continues::default() });
        let options = PushOptions { registry: prompt(), ..PushOptions::default() };
        let push = || place.push(&from.name("app:1"), &fake.name("app:1"), &options);
        push().unwrap_err();
        assert_eq!((state.lock().unwrap().bytes.len(), continued(&fake)), (BROKEN_OFF, 0));
        // What a collection finds is recent.
        Store::open(place.root()).unwrap().collect(false).unwrap();
        assert_eq!(push().unwrap().digest.to_string(), image.digest());
        assert_eq!(state.lock().unwrap().blobs[&image.layers[0].digest()], image.layers[0].packed);
        assert_eq!(continued(&fake), usize::from(!never), "the registry says whether it can go on");
        let notes = std::fs::read_dir(place.root().join("partial/sha256")).unwrap().count();
        assert_eq!(notes, 0, "what was sent is not noted any more");
    }
}

/// Compresses a layer as a push does.
fn as_here(layer: &Layer) -> Vec<u8> {
    use std::io::Write;
    match layer.packing {
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(&layer.tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(&layer.tar).unwrap();
            encoder.finish().unwrap()
        }
    }
}

#[test]
fn compressed_bytes_that_can_be_made_again_are_pushed_under_the_digest_that_was_pulled() {
    let layers = [Packing::Gzip, Packing::Zstd].map(|packing| {
        let mut layer = Layer::new(&format!("{packing:?}"), &noise(9, 700_000), packing);
        layer.packed = as_here(&layer);
        layer
    });
    let image = Image::new(layers.to_vec());
    let (from, to) = (Registry::plain(), Registry::plain());
    from.push(&image, "app:1");
    let (place, name) = (Place::new(), from.name("app:1"));
    place.pull(&name, &patient()).unwrap();
    // They cannot be fetched again.
    drop(from);
    let keeping = PushOptions { preserve_digests: true, registry: options(), ..PushOptions::default() };
    let pushed = place.push(&name, &to.name("app:1"), &keeping).unwrap();
    assert_eq!((pushed.digest.to_string(), pushed.is_new), (image.digest(), false));
    assert_eq!(transfers(&pushed), [Transfer::Sent; 2]);
    for layer in &image.layers {
        assert_eq!(std::fs::read(to.blob_path(&layer.digest())).unwrap(), layer.packed);
    }
    assert_eq!(inspected(&to.name("app:1"), true), image.manifest);
}

/// A registry whose tokens are good for the scopes that they were asked for.
fn with_tokens(image: &Image) -> Fake {
    let realm = Arc::new(std::sync::OnceLock::<u16>::new());
    let port = Arc::clone(&realm);
    let fake = Fake::start(&[image], move |request| {
        let plain = |text: &str| text.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/");
        if let Some((_, query)) = request.path.split_once("/token?") {
            return Reply::Answer(200, Vec::new(), json!({ "token": query }).to_string());
        }
        let repository = request.path.trim_start_matches("/v2/").split('/').next().unwrap().to_owned();
        let actions = if repository == "test" { "pull" } else { "pull,push" };
        let mut wanted = vec![format!("repository:{repository}:{actions}")];
        wanted.extend(plain(&request.path).contains("from=test").then(|| "repository:test:pull".to_owned()));
        let token = plain(request.headers.get("authorization").map_or("", String::as_str));
        if !repository.is_empty() && !wanted.iter().all(|scope| token.contains(scope.as_str())) {
            let realm = format!("http://127.0.0.1:{}/token", port.get().unwrap());
            // As registries do, it names only the scope of the repository that is asked for.
            let challenge = format!("Www-Authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"{}\"", wanted[0]);
            return Reply::Answer(401, vec![challenge], String::new());
        }
        match request.method.as_str() {
            "HEAD" => Reply::Answer(404, Vec::new(), String::new()),
            "POST" if request.path.contains("mount=") => Reply::Answer(201, Vec::new(), String::new()),
            "POST" => Reply::Answer(202, vec!["Location: /v2/copy/blobs/uploads/1".to_owned()], String::new()),
            "PATCH" => Reply::Answer(202, vec!["Location: /v2/copy/blobs/uploads/1".to_owned()], String::new()),
            "PUT" => Reply::Answer(201, Vec::new(), String::new()),
            _ => Reply::Serve,
        }
    });
    realm.set(fake.port).unwrap();
    fake
}

#[test]
fn layers_are_mounted_with_a_token_for_both_repositories() {
    let image = three_layers(6);
    let fake = with_tokens(&image);
    let place = Place::new();
    place.pull(&fake.name("test:0"), &patient()).unwrap();
    let pushed = place.push(&fake.name("test:0"), &fake.name("copy:1"), &push_options()).unwrap();
    assert_eq!(transfers(&pushed), [Transfer::Mounted; 3]);
    assert_eq!(pushed.digest.to_string(), image.digest());
    let mounts = fake.requests("mount=");
    assert!(mounts.iter().any(|request| {
        let token = request.headers.get("authorization").map_or("", String::as_str);
        token.contains("copy%3Apull%2Cpush") && token.contains("test%3Apull")
    }));
}

#[test]
fn a_push_that_is_refused_names_the_login_and_changes_no_name() {
    let registry = Registry::secure();
    let image = three_layers(4);
    let from = Registry::plain();
    from.push(&image, "app:1");
    let place = Place::new();
    place.pull(&from.name("app:1"), &patient()).unwrap();
    let trusting = PullOptions { ca_file: Some(registry.ca_file()), ..patient() };
    let push = |registry_options: &PullOptions| {
        let options = PushOptions { registry: registry_options.clone(), ..PushOptions::default() };
        place.push(&from.name("app:1"), &registry.name("app:1"), &options)
    };
    let error = push(&patient()).unwrap_err().to_string();
    assert!(error.contains("cannot trust"), "{error}");
    let error = push(&trusting).unwrap_err().to_string();
    assert!(error.contains("denied"), "{error}");
    let wrong = PullOptions { login: layer_store::Login::new("alice", "wr0ng"), ..trusting.clone() };
    let error = push(&wrong).unwrap_err();
    assert!(error.to_string().contains("refuses the login of alice"), "{error}");
    assert!(!format!("{error} {error:?} {wrong:?}").contains("wr0ng"), "a password is never shown");
    let right = PullOptions { login: layer_store::Login::new("alice", "s3cret"), ..trusting };
    assert_eq!(push(&right).unwrap().digest.to_string(), image.digest());
    let pulled = Place::new();
    pulled.pull(&registry.name("app:1"), &right).unwrap();
    pulled.assert_holds(&registry.name("app:1"), &image);
}
