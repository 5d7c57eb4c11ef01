//! A short run of the targets for documents, the same each time: real documents, changed at random.

use test_support::Random;

use super::documents;

/// What is put into documents: the ends of ranges and of syntax.
const WORDS: [&[u8]; 16] = [
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"18446744073709551613",
    b"\"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\\u0000",
    b"\xff",
    b"\xe2\x80\xae",
    b"sha256:",
    b"\n",
];

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":100,"urls":["https://a.test/x"]}],"annotations":{"a":"b"}}"#;
const INDEX: &str = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"platform":{"os":"linux","architecture":"arm","variant":"v7","os.features":["x"]},"annotations":{"org.opencontainers.image.ref.name":"a.test/x:1"}}]}"#;
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","config":{"Cmd":["/bin/sh"],"Env":["A=b"],"Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{}},"Volumes":null},"history":[{"created_by":"x","empty_layer":true}],"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
const SAVED: &str = r#"[{"Config":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.json","RepoTags":["a:1"],"Layers":["x/layer.tar"]}]"#;
const LOGINS: &str = r#"{"auths":{"a.test":{"auth":"dXNlcjpwYTpzcw=="},"https://index.docker.io/v1/":{"username":"u","password":"p","identitytoken":""}},"credHelpers":{"b.test":"x"},"credsStore":"y"}"#;
const POLICY: &str = r#"{"default":[{"type":"reject"}],"transports":{"docker":{"a.test/x":[{"type":"sigstoreSigned","keyPath":"/k","signedIdentity":{"type":"remapIdentity","prefix":"a.test","signedPrefix":"b.test"}}],"*.test":[{"type":"insecureAcceptAnything"}]},"oci":{"/srv":[{"type":"signedBy"}]}}}"#;
const REGISTRIES: &str = "default-docker:\n  use-sigstore-attachments: true\ndocker:\n  a.test:\n    lookaside: file:///x\n    use-sigstore-attachments: false\n";
const SIGNED: &str = r#"{"critical":{"type":"cosign container image signature","image":{"docker-manifest-digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"identity":{"docker-reference":"a.test/x:1"}},"optional":null}"#;
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
const SIGNATURES: &str = r#"{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"annotations":{"dev.cosignproject.cosign/signature":"YQ=="}}]}"#;
const DENIED: &str = r#"{"errors":[{"code":"DENIED","message":"no","detail":[{"Type":"repository"}]}],"token":"abc","access_token":"abc"}"#;
const HEADERS: &str = "bytes 400-999/1000\n600\nBearer realm=\"https://a.test/token\",service=\"x\",scope=\"repository:x:pull\", Basic realm=\"y\"";
const STORE: &str = r#"{"format":1,"incompatible":["thin-layers"],"read_only_compatible":[],"more":{"a":[1]}}"#;
const PIN: &str = r#"{"holder":"/x","purpose":"y","held":["layer sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}"#;
const SOURCES: &str = r#"[{"origin":{"Registry":{"registry":"a.test","repository":"x"}},"compressed":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","media_type":"x","bytes":7,"urls":[]}]"#;

/// Changes a document in a few places.
fn changed(random: &mut Random, sample: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(12)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            3 => {
                // A part that is there twice, such as a field.
                let part = bytes[at.min(end)..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            4 => bytes.truncate(at),
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                bytes.extend_from_slice(&other[from..]);
            }
            _ => drop(bytes.splice(at..at, WORDS[6 + random.below(5)].repeat(1 + random.below(200)))),
        }
    }
    bytes
}

fn run(target: fn(&[u8]), samples: &[&str]) {
    let mut random = Random::new(14);
    for sample in samples {
        target(sample.as_bytes());
    }
    for deep in [b"[".repeat(100_000), b"{\"a\":".repeat(50_000), b"- ".repeat(50_000), b"a: &a [*a, *a]\n".repeat(100)]
    {
        target(&deep);
    }
    for _ in 0..3000 {
        let [sample, other] = [random.below(samples.len()), random.below(samples.len())].map(|number| samples[number]);
        target(&changed(&mut random, sample.as_bytes(), other.as_bytes()));
    }
}

#[test]
fn documents_of_images_are_read_or_refused() {
    run(documents::image_documents, &[MANIFEST, INDEX, CONFIG, SIGNATURES, "a.test/x:1"]);
}

#[test]
fn lists_of_archives_are_read_or_refused() {
    run(documents::archive_lists, &[INDEX, SAVED, CONFIG, MANIFEST]);
}

#[test]
fn documents_of_a_store_are_read_or_refused() {
    run(documents::store_documents, &[STORE, PIN, SOURCES]);
}

#[test]
fn login_files_are_read_or_refused() {
    run(documents::login_file, &[LOGINS]);
}

#[test]
fn answers_of_registries_are_read_or_refused() {
    run(documents::registry_answer, &[DENIED, HEADERS, SIGNATURES]);
}

#[test]
fn policies_are_read_or_refused() {
    run(documents::policy, &[POLICY, REGISTRIES, SIGNED, KEY, "a.test/x:1"]);
}
