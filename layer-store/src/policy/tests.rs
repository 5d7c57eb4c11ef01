//! Policies without a registry: documents, scopes, identities, keys and signed documents.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use super::document::{Document, Requirement};
use super::key::Keys;
use super::registries::Registries;
use super::*;

fn registry(name: &str) -> Place {
    Place::Registry(Box::new(name.parse().unwrap()))
}

/// What is before the point of a key in its SubjectPublicKeyInfo: id-ecPublicKey, prime256v1 (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn generate() -> EcdsaKeyPair {
    let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap()
}

fn pem(key: &EcdsaKeyPair) -> String {
    let der = [&P256, key.public_key().as_ref()].concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

#[test]
fn scopes_of_a_name_go_from_the_image_to_the_domain() {
    for (place, scopes) in [
        (
            registry("busybox"),
            &[
                "docker.io/library/busybox:latest",
                "docker.io/library/busybox",
                "docker.io/library",
                "docker.io",
                "*.io",
            ][..],
        ),
        (
            registry("a.b.test:5000/x/y:1"),
            &["a.b.test:5000/x/y:1", "a.b.test:5000/x/y", "a.b.test:5000/x", "a.b.test:5000", "*.b.test", "*.test"],
        ),
        (Place::Layout("/srv/a/layout".into()), &["/srv/a/layout", "/srv/a", "/srv"]),
        (Place::LayoutArchive(Some("/x.tar".into())), &["/x.tar"]),
        (Place::LayoutArchive(None), &[]),
        (Place::DockerArchive, &[]),
    ] {
        assert_eq!(place.scopes(), scopes, "{place:?}");
    }
    let digest = format!("sha256:{}", "0".repeat(64));
    let both = registry(&format!("a.test/x:1@{digest}"));
    assert_eq!(both.scopes().first(), Some(&format!("a.test/x@{digest}")), "what is pulled is named by the digest");
}

#[test]
fn a_scope_of_a_transport_wins_over_the_default() {
    let text = br#"{"default":[{"type":"reject"}],"transports":{
        "oci":{"/srv":[{"type":"insecureAcceptAnything"}]},
        "docker":{"":[{"type":"insecureAcceptAnything"}],"a.test/x":[{"type":"reject"}]},
        "unknown":{"whatever":[{"type":"reject"}]}}}"#;
    let document = Document::parse(text).unwrap();
    for (place, accepts) in [
        (Place::Layout("/srv/deep/layout".into()), true),
        (Place::Layout("/srvx".into()), false),
        (Place::LayoutArchive(Some("/srv/x.tar".into())), false),
        (registry("b.test/x"), true),
        (registry("a.test/x:7"), false),
        (registry("a.test/xy"), true),
        (Place::Daemon(None), false),
        (Place::Tarball, false),
    ] {
        let expected = if accepts { Requirement::Accept } else { Requirement::Reject };
        assert_eq!(document.requirements(&place), [expected], "{place:?}");
    }
}

#[test]
fn identities_compare_names_as_docker_writes_them() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let by_digest = format!("busybox@{digest}");
    let default = Identity::RepoDigestOrExact;
    let remap = |prefix: &str, signed_prefix: &str| Identity::Remap {
        prefix: prefix.to_owned(),
        signed_prefix: signed_prefix.to_owned(),
    };
    for (identity, wanted, signed, accepted) in [
        (&default, "busybox:1", "docker.io/library/busybox:1", true),
        (&default, "busybox", "busybox:latest", true),
        (&default, "busybox", "busybox", false),
        (&default, "busybox:1", "busybox:2", false),
        (&default, &by_digest, "busybox:2", true),
        (&default, &by_digest, "alpine:2", false),
        (&default, "busybox:1", "", false),
        (&default, "busybox:1", "not a name", false),
        (&default, "busybox:1", &format!("busybox:1@{digest}"), false),
        (&Identity::Exact, "busybox:1", "busybox:1", true),
        (&Identity::Exact, &by_digest, "busybox:1", false),
        (&Identity::Exact, &by_digest, &by_digest, true),
        (&Identity::Repository, "busybox:1", "busybox:2", true),
        (&Identity::Repository, "busybox:1", "busybox", true),
        (&Identity::Repository, "busybox:1", "b.test/library/busybox", false),
        (&Identity::ExactReference("a.test/x:1".to_owned()), "busybox", "a.test/x:1", true),
        (&Identity::ExactReference("a.test/x:1".to_owned()), "busybox", "a.test/x:2", false),
        (&Identity::ExactRepository("a.test/x".to_owned()), "busybox", "a.test/x:2", true),
        (&Identity::ExactRepository("a.test/x".to_owned()), "busybox", "a.test/y:2", false),
        (&remap("mirror.test/hub", "docker.io"), "mirror.test/hub/library/busybox:1", "busybox:1", true),
        (&remap("mirror.test/hub", "docker.io"), "mirror.test/hubs/library/busybox:1", "busybox:1", false),
        (&remap("mirror.test", "docker.io/library"), "mirror.test/busybox:1", "busybox:1", true),
        (&remap("mirror.test/x", "a.test/y"), "mirror.test/x:1", "a.test/y:1", true),
        (&remap("mirror.test/x", "a.test/y"), "b.test/x:1", "b.test/x:1", true),
    ] {
        let wanted: Reference = wanted.parse().unwrap();
        assert_eq!(identity.accepts(&wanted, signed), accepted, "{identity:?} {wanted:?} {signed:?}");
    }
}

#[test]
fn a_signature_is_good_only_by_its_key_and_for_its_manifest() {
    let key = generate();
    let keys = Keys::Data(vec![STANDARD.encode(pem(&key))]).load(Path::new("policy.json")).unwrap();
    let manifest = Digest::of(b"manifest");
    let document = serde_json::json!({
        "critical": {
            "type": "cosign container image signature",
            "image": {"docker-manifest-digest": manifest.to_string()},
            "identity": {"docker-reference": "a.test/x:1"},
        },
        "optional": {"creator": "test"},
    });
    let sign = |payload: &[u8]| STANDARD.encode(key.sign(&SystemRandom::new(), payload).unwrap());
    let payload = document.to_string().into_bytes();
    let good = Attachment { signature: sign(&payload), payload };
    let verify =
        |attachment: &Attachment, manifest: &Digest| attachment.verify(&keys, manifest, |name| name == "a.test/x:1");
    assert_eq!(verify(&good, &manifest), Ok(()));
    assert!(verify(&good, &Digest::of(b"another")).is_err());
    assert!(good.verify(&[], &manifest, |_| true).is_err(), "no key");
    assert!(good.verify(&keys, &manifest, |_| false).is_err(), "another name");
    for position in 0..good.payload.len() {
        let mut changed = good.clone();
        changed.payload[position] ^= 1;
        assert!(verify(&changed, &manifest).is_err(), "byte {position}");
    }
    let other = generate();
    let others = Keys::Data(vec![STANDARD.encode(pem(&other))]).load(Path::new("policy.json")).unwrap();
    assert!(good.verify(&others, &manifest, |_| true).is_err());
    // A document that means something else to another reader is refused, although its signature is good.
    let text = document.to_string();
    for odd in [
        text.replace("\"critical\":{", "\"critical\":{\"more\":1,"),
        text.replace("\"optional\":", "\"critical\":{},\"optional\":"),
        text.replace("cosign container image signature", "another"),
        format!("{text} x"),
        "[]".to_owned(),
    ] {
        let attachment = Attachment { signature: sign(odd.as_bytes()), payload: odd.clone().into_bytes() };
        assert!(verify(&attachment, &manifest).is_err(), "{odd}");
    }
}

#[test]
fn registries_say_for_each_scope_whether_they_keep_signatures() {
    let of = |files: &[&str], name: &str| Registries::of(files).unwrap().keep_attachments(&registry(name));
    let one = "default-docker:\n  use-sigstore-attachments: false\n  lookaside: file:///x\n\
               docker:\n  a.test:\n    use-sigstore-attachments: true\n    sigstore: https://x\n  a.test/private/x:\n    \
               use-sigstore-attachments: false\n  a.test/private:\n    lookaside: file:///y\n";
    assert!(of(&[one], "a.test/x") && !of(&[one], "a.test/private/x:1") && !of(&[one], "b.test/x"));
    assert!(of(&[one], "a.test/private/y"), "a scope that says nothing passes on to its parent");
    assert!(!of(&[], "a.test/x") && !of(&["# nothing\n", "", "docker:\n"], "a.test/x"));
    assert!(of(&["docker:\n  \"*.test\":\n    use-sigstore-attachments: true\n"], "a.test/x"));
    for files in [
        &["docker: ["][..],
        &["docker:\n  a: {use-sigstore-attachments: maybe}\n"],
        &["docker: {a: {}}\n", "docker: {a: {}}\n"],
        &["default-docker: {}\n", "default-docker: {}\n"],
    ] {
        assert!(Registries::of(files).is_err(), "{files:?}");
    }
}

#[test]
fn files_are_found_and_limited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.json");
    let files = PolicyFiles { policy: Some(path.clone()), registries: None };
    let unreadable = files.demand("x", Place::Tarball).unwrap_err();
    assert!(matches!(&unreadable, PolicyError::Unreadable { path: named, .. } if *named == path), "{unreadable}");
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(files.demand("x", Place::Tarball).unwrap_err().to_string().contains("larger than 1 MiB"));
    let signed = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/x"}]}"#;
    std::fs::write(&path, signed).unwrap();
    for place in [Place::Tarball, Place::DockerArchive, Place::Layout("/x".into()), Place::Daemon(None)] {
        assert!(matches!(files.demand("x", place), Err(PolicyError::NotSigned { .. })));
    }
    assert!(ImagePolicy::AcceptAnything.demand("x", Place::Tarball).unwrap().is_none());
}
