//! `policy.json` in pulls: the same images are accepted and refused as with skopeo, and signatures count only for what
//! they sign.
//!
//! Debian's skopeo is built without the verification of sigstore signatures ("Debian-local change: sigstore disabled"),
//! so signatures are made with openssl, and what is accepted is not compared with skopeo.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use layer_store::{ImagePolicy, PolicyFiles, PullError, PullOptions};
use serde_json::{Value, json};
use test_support::programs::installed;

use super::support::image::{Image, Layer, Packing, digest, noise};
use super::support::registry::Registry;
use super::support::run;
use super::{Place, patient};

const DOCUMENT: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A registry with an image, keys, and a directory that says that the registry keeps signatures.
struct Scene {
    registry: Registry,
    image: Image,
    directory: tempfile::TempDir,
}

/// One case: a policy, and whether the image `name` is accepted.
struct Case {
    what: &'static str,
    policy: String,
    name: String,
    enters: bool,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scene = Self { registry: Registry::plain(), image: image(1), directory };
        for name in ["good", "other"] {
            scene.make_key(name, &["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
        }
        scene.make_key("rsa", &["genrsa", "2048"]);
        scene.make_key("ed25519", &["genpkey", "-algorithm", "ed25519"]);
        scene.make_key("p384", &["ecparam", "-name", "secp384r1", "-genkey", "-noout"]);
        for (name, setting) in [("on", true), ("off", false)] {
            let text = format!("# of this test\ndefault-docker:\n  use-sigstore-attachments: {setting}\n");
            std::fs::create_dir(scene.path(name)).unwrap();
            std::fs::write(scene.path(name).join("x.yaml"), text).unwrap();
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn make_key(&self, name: &str, words: &[&str]) {
        let key = self.path(&format!("{name}.key")).display().to_string();
        let public = self.path(&format!("{name}.pub")).display().to_string();
        // genrsa takes its options before the number of bits.
        let (command, rest) = words.split_first().unwrap();
        run("openssl", &[&[*command, "-out", &key], rest].concat());
        run("openssl", &["pkey", "-in", &key, "-pubout", "-out", &public]);
    }

    /// The signature of a document, in base64.
    fn sign(&self, key: &str, document: &[u8]) -> String {
        let (file, signature) = (self.path("document"), self.path("signature"));
        std::fs::write(&file, document).unwrap();
        let (file, out) = (file.display().to_string(), signature.display().to_string());
        let private = self.path(&format!("{key}.key")).display().to_string();
        match key {
            "ed25519" => {
                run("openssl", &["pkeyutl", "-sign", "-rawin", "-inkey", &private, "-in", &file, "-out", &out])
            }
            _ => run("openssl", &["dgst", "-sha256", "-sign", &private, "-out", &out, &file]),
        };
        base64::engine::general_purpose::STANDARD.encode(std::fs::read(signature).unwrap())
    }

    /// Stores signatures of the manifest `digest` of a repository as cosign does.
    fn attach(&self, repository: &str, digest_of_image: &str, signatures: &[(Vec<u8>, String)]) {
        let layers: Vec<Value> = signatures
            .iter()
            .map(|(document, signature)| {
                json!({
                    "mediaType": DOCUMENT, "digest": digest(document), "size": document.len(),
                    "annotations": {"dev.cosignproject.cosign/signature": signature},
                })
            })
            .collect();
        let diff_ids: Vec<String> = signatures.iter().map(|(document, _)| digest(document)).collect();
        let config =
            json!({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": layers,
        });
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
        put("version", b"Directory Transport Version: 1.1\n");
        put("manifest.json", manifest.to_string().as_bytes());
        put(digest(&config).trim_start_matches("sha256:"), &config);
        for (document, _) in signatures {
            put(digest(document).trim_start_matches("sha256:"), document);
        }
        let tag = format!("{repository}:{}.sig", digest_of_image.replace(':', "-"));
        self.registry.copy(&format!("dir:{}", directory.path().display()), &tag, &["--preserve-digests"]);
    }

    /// A document that says that the manifest `digest` was signed as `reference`.
    fn document(reference: &str, digest: &str) -> Vec<u8> {
        json!({
            "critical": {
                "type": "cosign container image signature", "image": {"docker-manifest-digest": digest},
                "identity": {"docker-reference": reference},
            },
            "optional": null,
        })
        .to_string()
        .into_bytes()
    }

    /// Pushes the image and signs it as `reference`, with each of the keys.
    fn push_signed(&self, repository: &str, keys: &[&str], reference: &str) {
        self.registry.push(&self.image, &format!("{repository}:1"));
        let document = Self::document(reference, &self.image.digest());
        let signatures: Vec<_> = keys.iter().map(|key| (document.clone(), self.sign(key, &document))).collect();
        self.attach(repository, &self.image.digest(), &signatures);
    }

    fn ours(&self, policy: &Path, registries: &Path, name: &str) -> Result<(), PullError> {
        let files = PolicyFiles { policy: Some(policy.to_owned()), registries: Some(registries.to_owned()) };
        let options = PullOptions { policy: ImagePolicy::Of(files), ..patient() };
        let place = Place::new();
        let pulled = place.pull(name, &options);
        if let Err(error) = &pulled {
            assert!(!error.to_string().contains('\n'), "{error}");
            place.assert_empty();
        } else {
            place.assert_holds(name, &self.image);
        }
        pulled.map(drop)
    }

    fn skopeos(policy: &Path, registries: &Path, name: &str) -> bool {
        let to = tempfile::tempdir().unwrap();
        let mut skopeo = Command::new(installed("skopeo"));
        skopeo.arg("--policy").arg(policy).arg("--registries.d").arg(registries);
        skopeo.args(["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{name}")]);
        skopeo.arg(format!("dir:{}", to.path().display())).output().unwrap().status.success()
    }

    /// Checks a case against skopeo and the expectation. Returns our error.
    fn check_with_skopeo(&self, case: &Case) -> Option<PullError> {
        let policy = self.path("policy.json");
        std::fs::write(&policy, &case.policy).unwrap();
        let theirs = Self::skopeos(&policy, &self.path("on"), &case.name);
        assert_eq!(theirs, case.enters, "{}: skopeo with {}", case.what, case.policy);
        self.check(case, "on")
    }

    fn check(&self, case: &Case, registries: &str) -> Option<PullError> {
        let (policy, registries) = (self.path("policy.json"), self.path(registries));
        std::fs::write(&policy, &case.policy).unwrap();
        let ours = self.ours(&policy, &registries, &case.name);
        assert_eq!(ours.is_ok(), case.enters, "{}: {ours:?} with {}", case.what, case.policy);
        ours.err()
    }
}

fn image(seed: u64) -> Image {
    Image::new(vec![Layer::new("etc/motd", &noise(seed, 2000), Packing::Gzip)])
}

#[test]
fn scopes_let_in_and_refuse_what_skopeo_does() {
    let scene = Scene::new();
    scene.registry.push(&scene.image, "team/app:1");
    let name = scene.registry.name("team/app:1");
    let by_address = format!("{}/team/app:1", scene.registry.address());
    let by_digest = scene.registry.name(&format!("team/app@{}", scene.image.digest()));
    let (yes, no) = (r#"[{"type":"insecureAcceptAnything"}]"#, r#"[{"type":"reject"}]"#);
    let at = |default: &str, scope: &str, then: &str| {
        format!(r#"{{"default":{default},"transports":{{"docker":{{"{scope}":{then}}}}}}}"#)
    };
    let host = scene.registry.name("").trim_end_matches('/').to_owned();
    let repository = scene.registry.name("team/app");
    let mut cases = Vec::new();
    let mut add =
        |what, policy: String, name: &str, enters| cases.push(Case { what, policy, name: name.to_owned(), enters });
    add("default", format!(r#"{{"default":{yes}}}"#), &name, true);
    add("default", format!(r#"{{"default":{no}}}"#), &name, false);
    add(
        "both must hold",
        r#"{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}"#.to_owned(),
        &name,
        false,
    );
    for (scope, applies) in [
        (name.as_str(), true),
        (repository.as_str(), true),
        (&scene.registry.name("team"), true),
        (&host, true),
        ("", true),
        ("localhost", false),
        (&scene.registry.name("team/app:2"), false),
        (&scene.registry.name("team/ap"), false),
        ("*.localhost", false),
    ] {
        add("scope that accepts", at(no, scope, yes), &name, applies);
        add("scope that rejects", at(yes, scope, no), &name, !applies);
    }
    add("wildcard", at(no, "*.0.0.1", yes), &by_address, true);
    add("wider wildcard", at(no, "*.1", yes), &by_address, true);
    add(
        "host before wildcard",
        format!(
            r#"{{"default":{yes},"transports":{{"docker":{{"*.0.1":{no},"{}":{yes}}}}}}}"#,
            scene.registry.address()
        ),
        &by_address,
        true,
    );
    add(
        "closest scope",
        format!(r#"{{"default":{yes},"transports":{{"docker":{{"{host}":{yes},"{repository}":{no}}}}}}}"#),
        &name,
        false,
    );
    add("digest", at(no, &by_digest, yes), &by_digest, true);
    add("a tag is no digest", at(no, &name, yes), &by_digest, false);
    add(
        "other transport",
        format!(r#"{{"default":{yes},"transports":{{"oci":{{"":{no}}},"docker-daemon":{{"":{no}}}}}}}"#),
        &name,
        true,
    );
    for case in &cases {
        if let Some(error) = scene.check_with_skopeo(case) {
            assert!(
                error
                    .to_string()
                    .ends_with(&format!("is refused by the policy {}", scene.path("policy.json").display())),
                "{error}"
            );
        }
    }
}

#[test]
fn what_is_not_understood_refuses_and_names_the_file() {
    let scene = Scene::new();
    scene.registry.push(&scene.image, "team/app:1");
    let name = scene.registry.name("team/app:1");
    let yes = r#"[{"type":"insecureAcceptAnything"}]"#;
    for policy in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"default":[]}"#,
        r#"{"default":{}}"#,
        r#"{"default":[{}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything","keyPath":"/x"}]}"#,
        r#"{"default":[{"type":"reject","what":1}]}"#,
        r#"{"default":[{"type":"sometimes"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"default":[{"type":"insecureAcceptAnything"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"further":1}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"":[]}}}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":[]}}"#,
        &format!(r#"{{"default":{yes},"transports":{{"docker":{{"a":{yes},"a":{yes}}}}}}}"#),
        &format!(r#"{{"default":{yes},"transports":{{"docker":{{}},"docker":{{}}}}}}"#),
        &format!(r#"{{"default":{yes},"transports":{{"oci":{{"relative":{yes}}}}}}}"#),
        &format!(r#"{{"default":{yes},"transports":{{"oci":{{"/a/../b":{yes}}}}}}}"#),
        &format!(r#"{{"default":{yes},"transports":{{"docker-archive":{{"/a":{yes}}}}}}}"#),
        r#"{"default":[{"type":"sigstoreSigned"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/nowhere"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/a","keyData":"YQ=="}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyData":"!"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyData":"YQ=="}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/a","signedIdentity":{"type":"always"}}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/a","signedIdentity":{"type":"exactReference","dockerReference":"a"}}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/a","signedIdentity":{"type":"exactRepository"}}]}"#,
        r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/dev/null"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","fulcio":{"caPath":"/a","oidcIssuer":"b","subjectEmail":"c"},"rekorPublicKeyPath":"/d"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","keyPath":"/a","rekorPublicKeyPath":"/b"}]}"#,
        r#"{"default":[{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}]}"#,
    ] {
        let case = Case { what: "refusal", policy: policy.to_owned(), name: name.clone(), enters: false };
        let error = scene.check_with_skopeo(&case).unwrap().to_string();
        let names = error.contains(&scene.path("policy.json").display().to_string()) || error.contains("/nowhere");
        assert!(names, "{policy}: {error}");
    }
    // The file is there and cannot be read.
    let missing = scene.ours(&scene.path("missing.json"), &scene.path("on"), &name).unwrap_err().to_string();
    assert!(missing.contains("missing.json: ") && missing.contains("No such file"), "{missing}");
    for (policy, words) in [
        (
            r#"{"default":[{"type":"sigstoreSigned","pki":{}}]}"#,
            "asks for \"sigstoreSigned\" with a PKI, which is not supported",
        ),
        (
            r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/x"}]}"#,
            "asks for \"signedBy\" (a signature by GPG), which",
        ),
    ] {
        std::fs::write(scene.path("policy.json"), policy).unwrap();
        let error = scene.ours(&scene.path("policy.json"), &scene.path("on"), &name).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("policy.json"), "{error}");
    }
}

#[test]
fn signatures_count_for_what_they_sign() {
    let scene = Scene::new();
    let name = |image: &str| scene.registry.name(image);
    scene.push_signed("team/app", &["good"], &name("team/app:1"));
    scene.push_signed("team/two", &["other", "good"], &name("team/two:1"));
    scene.push_signed("team/rsa", &["rsa"], &name("team/rsa:1"));
    scene.push_signed("team/ed", &["ed25519"], &name("team/ed:1"));
    scene.push_signed("team/moved", &["good"], &name("team/app:1"));
    scene.push_signed("team/tag", &["good"], &name("team/tag:2"));
    scene.push_signed("team/bare", &["good"], &name("team/bare"));
    scene.registry.push(&scene.image, "team/unsigned:1");
    // A signature of another manifest, a broken one, one of a changed document, and documents of other formats.
    let other = Scene::document(&name("team/stale:1"), &image(2).digest());
    scene.registry.push(&scene.image, "team/stale:1");
    scene.attach("team/stale", &scene.image.digest(), &[(other.clone(), scene.sign("good", &other))]);
    let document = Scene::document(&name("team/broken:1"), &scene.image.digest());
    scene.registry.push(&scene.image, "team/broken:1");
    scene.attach("team/broken", &scene.image.digest(), &[(document.clone(), "bm90IGEgc2lnbmF0dXJl".to_owned())]);
    scene.registry.push(&scene.image, "team/changed:1");
    let changed = Scene::document(&name("team/changed:1"), &scene.image.digest());
    scene.attach("team/changed", &scene.image.digest(), &[(changed, scene.sign("good", &document))]);
    let text = String::from_utf8(Scene::document(&name("team/odd:1"), &scene.image.digest())).unwrap();
    let odd = [
        text.replace("cosign container image signature", "atomic container signature"),
        text.replace(",\"optional\":null", ""),
        text.replace("\"optional\":null", "\"optional\":null,\"further\":1"),
        text.replace("\"identity\":{", "\"identity\":{\"x\":1,"),
        "{}".to_owned(),
        "null".to_owned(),
    ];
    scene.registry.push(&scene.image, "team/odd:1");
    let odd: Vec<_> =
        odd.into_iter().map(String::into_bytes).map(|text| (text.clone(), scene.sign("good", &text))).collect();
    scene.attach("team/odd", &scene.image.digest(), &odd);

    let path = |key: &str| scene.path(&format!("{key}.pub")).display().to_string();
    let data = base64::engine::general_purpose::STANDARD.encode(std::fs::read(path("good")).unwrap());
    let by = |key: &str| json!({"type": "sigstoreSigned", "keyPath": path(key)});
    let identity =
        |identity: Value| json!({"type": "sigstoreSigned", "keyPath": path("good"), "signedIdentity": identity});
    let remap = |prefix: &str, signed: &str| {
        identity(json!({"type": "remapIdentity", "prefix": name(prefix), "signedPrefix": name(signed)}))
    };
    let by_digest = format!("team/app@{}", scene.image.digest());
    let moved_by_digest = format!("team/moved@{}", scene.image.digest());
    let cases: Vec<(&'static str, Vec<Value>, &str, bool)> = vec![
        ("by the key", vec![by("good")], "team/app:1", true),
        ("key in the policy", vec![json!({"type": "sigstoreSigned", "keyData": data})], "team/app:1", true),
        ("by another key", vec![by("other")], "team/app:1", false),
        ("by both keys", vec![by("good"), by("other")], "team/two:1", true),
        ("by one of two keys that are asked for", vec![by("good"), by("other")], "team/app:1", false),
        ("signed and rejected", vec![by("good"), json!({"type": "reject"})], "team/app:1", false),
        ("not the first signature", vec![by("good")], "team/two:1", true),
        ("RSA", vec![by("rsa")], "team/rsa:1", true),
        ("Ed25519", vec![by("ed25519")], "team/ed:1", true),
        ("no signature", vec![by("good")], "team/unsigned:1", false),
        ("of another manifest", vec![by("good")], "team/stale:1", false),
        ("no signature at all", vec![by("good")], "team/broken:1", false),
        ("a changed document", vec![by("good")], "team/changed:1", false),
        ("documents of other formats", vec![by("good")], "team/odd:1", false),
        ("as another repository", vec![by("good")], "team/moved:1", false),
        ("as another tag", vec![by("good")], "team/tag:1", false),
        ("as no tag", vec![by("good")], "team/bare:1", false),
        ("by digest", vec![by("good")], &by_digest, true),
        ("by digest as another repository", vec![by("good")], &moved_by_digest, false),
        ("matchExact", vec![identity(json!({"type": "matchExact"}))], "team/app:1", true),
        ("matchExact by digest", vec![identity(json!({"type": "matchExact"}))], &by_digest, false),
        ("matchRepository", vec![identity(json!({"type": "matchRepository"}))], "team/tag:1", true),
        ("matchRepository without a tag", vec![identity(json!({"type": "matchRepository"}))], "team/bare:1", true),
        ("matchRepository", vec![identity(json!({"type": "matchRepository"}))], "team/moved:1", false),
        (
            "exactReference",
            vec![identity(json!({"type": "exactReference", "dockerReference": name("team/app:1")}))],
            "team/moved:1",
            true,
        ),
        (
            "exactReference",
            vec![identity(json!({"type": "exactReference", "dockerReference": name("team/app:1")}))],
            "team/tag:1",
            false,
        ),
        (
            "exactRepository",
            vec![identity(json!({"type": "exactRepository", "dockerRepository": name("team/app")}))],
            "team/moved:1",
            true,
        ),
        (
            "exactRepository",
            vec![identity(json!({"type": "exactRepository", "dockerRepository": name("team/ap")}))],
            "team/moved:1",
            false,
        ),
        ("remapIdentity", vec![remap("team/moved", "team/app")], "team/moved:1", true),
        ("remapIdentity elsewhere", vec![remap("team/mov", "team/app")], "team/moved:1", false),
        ("remapIdentity of others", vec![remap("team/x", "team/y")], "team/app:1", true),
        ("remapIdentity by digest", vec![remap("team/moved", "team/app")], &moved_by_digest, true),
    ];
    for (what, requirements, image, enters) in cases {
        let policy = json!({"default": requirements}).to_string();
        let case = Case { what, policy, name: name(image), enters };
        scene.check(&case, "on");
        // Nothing is looked up where nothing says that there are signatures.
        let off = Case { what: "attachments are off", enters: false, ..case };
        assert!(scene.check(&off, "off").is_some_and(|error| error.to_string().contains("policy.json")));
    }

    let ours = |requirement: Value, image: &str| {
        std::fs::write(scene.path("policy.json"), json!({"default": [requirement]}).to_string()).unwrap();
        scene.ours(&scene.path("policy.json"), &scene.path("on"), &name(image))
    };
    for keys in [vec!["good", "other"], vec!["other", "good"]] {
        let paths: Vec<String> = keys.iter().map(|key| path(key)).collect();
        ours(json!({"type": "sigstoreSigned", "keyPaths": paths}), "team/app:1").unwrap();
    }
    ours(json!({"type": "sigstoreSigned", "keyDatas": [data]}), "team/app:1").unwrap();
    assert!(ours(json!({"type": "sigstoreSigned", "keyPaths": [path("other"), path("rsa")]}), "team/app:1").is_err());
    // Errors say what is wrong.
    for (requirement, image, words) in [
        (by("good"), "team/unsigned:1", "it has no sigstore signature in its registry"),
        (by("other"), "team/app:1", "its signature is by none of the keys"),
        (by("good"), "team/moved:1", "it was signed as localhost:"),
        (by("good"), "team/stale:1", "the signature is for the manifest sha256:"),
        (by("p384"), "team/app:1", "p384.pub: its key is neither ECDSA on the curve P-256 nor RSA nor Ed25519"),
    ] {
        let error = ours(requirement, image).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}
