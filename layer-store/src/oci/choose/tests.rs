use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::BlobDigest;
use crate::oci::media_type::{OCI_INDEX, OCI_MANIFEST};

/// Documents by their digests, and how often each was fetched.
#[derive(Default)]
struct Shelf {
    documents: HashMap<BlobDigest, Vec<u8>>,
    asked: RefCell<Vec<BlobDigest>>,
}

impl Documents for Shelf {
    type Error = BlobDigest;

    fn document(&self, _what: &str, descriptor: &Descriptor, _limit: u64) -> Result<Vec<u8>, BlobDigest> {
        self.asked.borrow_mut().push(descriptor.digest);
        self.documents.get(&descriptor.digest).cloned().ok_or(descriptor.digest)
    }

    fn is_absent(&self, _error: &BlobDigest) -> bool {
        true
    }
}

impl Shelf {
    fn put(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()});
        self.documents.insert(digest.into(), bytes);
        descriptor
    }

    /// Adds an image whose config has this platform. It has no layers, so the author makes it unique.
    fn image(&mut self, platform: &str, author: &str) -> Value {
        let mut config = json!({"author": author, "rootfs": {}});
        for (name, word) in ["os", "architecture", "variant"].iter().zip(platform.split('/')) {
            config[name] = json!(word);
        }
        let config = self.put(OCI_CONFIG, &config);
        self.put(OCI_MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": []}))
    }

    fn artifact(&mut self) -> Value {
        let config = self.put("application/vnd.wasm.config.v0+json", &json!({}));
        self.put(OCI_MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": []}))
    }

    fn index(&mut self, entries: &[Value]) -> Value {
        self.put(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": entries}))
    }

    /// Returns the author of the chosen image, or why none was chosen.
    fn choose(&self, entries: &[Value], wanted: &str, is_asked_for: bool) -> Result<String, String> {
        let index = json!({"manifests": entries}).to_string();
        let index = manifest::parse_index("index", index.as_bytes()).unwrap();
        let wanted = wanted.parse().unwrap();
        let choice = Choice { documents: self, wanted: &wanted, is_asked_for };
        match choice.of_entries(index) {
            Ok(chosen) => {
                let config: Value = serde_json::from_slice(&chosen.config_bytes).unwrap();
                Ok(config["author"].as_str().unwrap().to_owned())
            }
            Err(ChoiceError::Image(error)) => Err(error.to_string()),
            Err(ChoiceError::Document(digest)) => Err(format!("absent {digest}")),
        }
    }
}

fn on(mut entry: Value, platform: &str) -> Value {
    let mut described = json!({});
    for (name, word) in ["os", "architecture", "variant"].iter().zip(platform.split('/')) {
        described[name] = json!(word);
    }
    entry["platform"] = described;
    entry
}

#[test]
fn the_nearest_variant_that_runs_is_chosen() {
    let table: &[(&[&str], &str, Option<usize>)] = &[
        (&["linux/386", "linux/amd64", "linux/arm64/v8"], "linux/amd64", Some(1)),
        (&["linux/386", "linux/amd64", "linux/arm64/v8"], "linux/arm64", Some(2)),
        (&["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm", Some(2)),
        (&["linux/arm/v5", "linux/arm/v7"], "linux/arm/v6", Some(0)),
        (&["linux/arm/v7"], "linux/arm/v6", None),
        (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some(1)),
        (&["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3", Some(1)),
        (&["windows/amd64", "unknown/unknown"], "linux/amd64", None),
        (&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0)),
    ];
    for (offers, wanted, expected) in table {
        for says_so in [true, false] {
            let mut shelf = Shelf::default();
            let offer = |(number, platform): (usize, &&str)| {
                let image = shelf.image(platform, &number.to_string());
                if says_so { on(image, platform) } else { image }
            };
            let entries: Vec<Value> = offers.iter().enumerate().map(offer).collect();
            let chosen = shelf.choose(&entries, wanted, true);
            let expected = expected.map(|number| number.to_string());
            assert_eq!(chosen.as_ref().ok(), expected.as_ref(), "{wanted} of {offers:?}, {says_so}: {chosen:?}");
        }
    }
}

#[test]
fn only_what_may_be_chosen_is_looked_into() {
    let mut shelf = Shelf::default();
    let entries: Vec<Value> =
        ["linux/arm64", "linux/amd64", "linux/s390x"].map(|name| on(shelf.image(name, name), name)).into();
    assert_eq!(shelf.choose(&entries, "linux/amd64", false).unwrap(), "linux/amd64");
    assert_eq!(shelf.asked.borrow().len(), 2, "a manifest and its config");
}

#[test]
fn attestations_and_artifacts_are_passed_over() {
    let mut shelf = Shelf::default();
    let image = shelf.image("linux/amd64", "image");
    let attestation = shelf.image("unknown/unknown", "attestation");
    let mut annotated = shelf.image("linux/amd64", "annotated");
    annotated["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut typed = shelf.image("linux/amd64", "typed");
    typed["artifactType"] = json!("application/vnd.example");
    let artifact = shelf.artifact();
    let mut lazy = on(shelf.image("linux/amd64", "lazy"), "linux/amd64");
    lazy["platform"]["os.features"] = json!(["nydus.remoteimage.v1"]);
    for beside in [
        on(attestation.clone(), "unknown/unknown"),
        attestation.clone(),
        annotated.clone(),
        typed,
        artifact.clone(),
        on(artifact.clone(), "linux/amd64"),
        lazy.clone(),
    ] {
        for image in [image.clone(), on(image.clone(), "linux/amd64")] {
            let entries = [beside.clone(), image];
            assert_eq!(shelf.choose(&entries, "linux/amd64", false).unwrap(), "image", "{entries:?}");
        }
    }
    assert_eq!(shelf.choose(&[lazy], "linux/amd64", false).unwrap(), "lazy", "it is the only one");
    let error = shelf.choose(&[annotated, on(attestation, "unknown/unknown")], "linux/amd64", false).unwrap_err();
    assert_eq!(error, "not a container image: its index lists no image");
    let error = shelf.choose(&[artifact], "linux/amd64", false).unwrap_err();
    assert!(error.contains("application/vnd.wasm"), "{error}");
}

#[test]
fn indexes_within_indexes_are_looked_into() {
    let mut shelf = Shelf::default();
    let (amd64, arm64) = (shelf.image("linux/amd64", "amd64"), shelf.image("linux/arm64", "arm64"));
    let one = shelf.index(&[on(arm64, "linux/arm64")]);
    let other = shelf.index(&[amd64]);
    let entries = [one, other.clone()];
    assert_eq!(shelf.choose(&entries, "linux/amd64", true).unwrap(), "amd64");
    assert_eq!(shelf.choose(&entries, "linux/arm64", true).unwrap(), "arm64");
    let error = shelf.choose(&entries, "linux/riscv64", true).unwrap_err();
    assert_eq!(error, "no image for linux/riscv64; there is linux/arm64, linux/amd64");
    let mut deep = other;
    for _ in 0..4 {
        deep = shelf.index(&[deep]);
    }
    assert!(shelf.choose(&[deep], "linux/amd64", true).unwrap_err().contains("without end"));
}

#[test]
fn a_variant_that_only_one_of_entry_and_config_has_counts() {
    let mut shelf = Shelf::default();
    let plain = shelf.image("linux/arm", "plain");
    assert_eq!(shelf.choose(&[on(plain.clone(), "linux/arm/v6")], "linux/arm/v6", true).unwrap(), "plain");
    assert!(shelf.choose(&[on(plain.clone(), "linux/arm/v7")], "linux/arm/v6", true).is_err());
    let (six, seven) = (shelf.image("linux/arm/v6", "six"), shelf.image("linux/arm/v7", "seven"));
    let entries = [on(plain.clone(), "linux/arm"), on(seven, "linux/arm"), on(six, "linux/arm")];
    assert_eq!(shelf.choose(&entries, "linux/arm/v6", true).unwrap(), "six");
    assert_eq!(
        shelf.choose(&entries[..2], "linux/arm/v6", true).unwrap(),
        "plain",
        "nothing says that it does not run"
    );
}

#[test]
fn a_platform_whose_documents_are_missing_is_not_offered() {
    let mut shelf = Shelf::default();
    let (amd64, arm64) = (shelf.image("linux/amd64", "amd64"), shelf.image("linux/arm64", "arm64"));
    let s390x = shelf.image("linux/s390x", "s390x");
    for gone in [&amd64, &s390x] {
        shelf.documents.remove(&gone["digest"].as_str().unwrap().parse().unwrap());
    }
    let entries = [on(amd64.clone(), "linux/amd64"), on(arm64, "linux/arm64"), on(s390x, "linux/s390x")];
    let error = shelf.choose(&entries, "linux/amd64", false).unwrap_err();
    assert_eq!(error, "no image for linux/amd64; there is linux/arm64");
    let error = shelf.choose(&entries[..1], "linux/amd64", false).unwrap_err();
    assert_eq!(error, format!("absent {}", amd64["digest"].as_str().unwrap()));
}

#[test]
fn the_platform_asked_for_is_not_replaced_and_the_host_s_is() {
    let mut shelf = Shelf::default();
    let lying = on(shelf.image("linux/s390x", "lying"), "linux/amd64");
    assert_eq!(shelf.choose(std::slice::from_ref(&lying), "linux/amd64", false).unwrap(), "lying");
    let error = shelf.choose(&[lying], "linux/amd64", true).unwrap_err();
    assert_eq!(error, "no image for linux/amd64; there is linux/s390x");
}
