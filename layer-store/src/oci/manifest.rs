//! Manifests, image indexes and configs: checked against their digests and parsed.

use std::collections::BTreeMap;

use oci_spec::image::{self, DescriptorBuilder, MediaType, Sha256Digest};
use serde_json::Value;

use super::media_type::{self, DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use super::platform::Described;
use super::{ImageError, tolerant};
use crate::{BlobDigest, DiffId, Digest};

/// The size of the largest manifest or index that is read, in bytes: what registries must accept at least (distribution
/// specification, "Pushing Manifests").
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// The size of the largest config that is read, in bytes. Real ones are below 100 kB.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;

/// Describes bytes that are somewhere else: their type, digest and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: BlobDigest,
    pub(crate) size: u64,
    /// Other places that have the bytes, for foreign layers, which registries may not keep.
    pub(crate) urls: Vec<String>,
}

/// Returns a descriptor for a manifest that we write.
pub(crate) fn descriptor(media_type: MediaType, digest: &Digest, size: u64) -> Result<image::Descriptor, String> {
    let digest: Sha256Digest = digest.hex().parse().map_err(|error| format!("{error}"))?;
    let built = DescriptorBuilder::default().media_type(media_type).digest(digest).size(size).build();
    built.map_err(|error| error.to_string())
}

/// The manifest of one image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// From the bottom up.
    pub(crate) layers: Vec<Descriptor>,
}

/// What a name can refer to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// The entries of an image index that can be read.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: Vec<IndexEntry>,
    /// What is wrong with the first entry that cannot be read.
    pub(crate) refused: Option<ImageError>,
}

/// One entry of an image index: a manifest, or another index.
#[derive(Clone, Debug)]
pub(crate) struct IndexEntry {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Described,
    /// Features of the operating system that it needs.
    pub(crate) os_features: Vec<String>,
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What fetching needs from a config.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) platform: Described,
    /// From the bottom up.
    pub(crate) diff_ids: Vec<DiffId>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: &str, size: u64) -> Result<Self, ImageError> {
        let malformed = |cause: String| ImageError::Malformed { what: "descriptor".to_owned(), cause };
        Ok(Self {
            media_type: media_type.to_owned(),
            digest: digest.parse().map_err(|e| malformed(format!("{e}")))?,
            size,
            urls: Vec::new(),
        })
    }

    fn read(descriptor: &image::Descriptor) -> Result<Self, ImageError> {
        let read = Self::new(descriptor.media_type().as_ref(), descriptor.digest().as_ref(), descriptor.size())?;
        Ok(Self { urls: descriptor.urls().clone().unwrap_or_default(), ..read })
    }

    /// Returns the first 12 hex digits of the digest, as messages show it.
    pub(crate) fn short(&self) -> String {
        self.digest.hex().chars().take(12).collect()
    }

    /// Checks that `bytes` are what this descriptor describes; `what` names them in the error.
    pub(crate) fn verify(&self, what: &str, bytes: &[u8]) -> Result<(), ImageError> {
        if bytes.len() as u64 != self.size {
            return Err(ImageError::WrongSize {
                what: format!("{what} {}", self.digest),
                expected: self.size,
                actual: bytes.len() as u64,
            });
        }
        verify(what, bytes, &self.digest)
    }
}

pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// Checks that `bytes` have the digest `expected`.
pub(crate) fn verify(what: &str, bytes: &[u8], expected: &BlobDigest) -> Result<(), ImageError> {
    let actual = expected.of_same_kind(bytes);
    if actual == *expected {
        return Ok(());
    }
    let (expected, actual) = (expected.to_string(), actual.to_string());
    Err(ImageError::WrongDigest { what: what.to_owned(), expected, actual })
}

impl IndexEntry {
    fn read(entry: &image::Descriptor) -> Result<Self, ImageError> {
        let platform = entry.platform().as_ref();
        let said = platform.map(|it| (it.os().to_string(), it.architecture().to_string()));
        Ok(Self {
            descriptor: Descriptor::read(entry)?,
            platform: Described::new(
                said.as_ref().map(|(os, _)| os.as_str()),
                said.as_ref().map(|(_, architecture)| architecture.as_str()),
                platform.and_then(|it| it.variant().as_deref()),
            ),
            os_features: platform.and_then(|it| it.os_features().clone()).unwrap_or_default(),
            artifact_type: entry.artifact_type().as_ref().map(ToString::to_string),
            annotations: entry.annotations().clone().unwrap_or_default().into_iter().collect(),
        })
    }
}

/// Parses a manifest or an index.
///
/// The document's own `mediaType` decides, then `content_type` (what the registry or the descriptor
/// called it), then the fields it has. A document that could be read both ways is refused, because two
/// programs could see different images in it (CVE-2021-41190).
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ImageError> {
    let fields = tolerant::object("manifest", bytes)?;
    let has = |name: &str| fields.contains_key(name);
    if has("manifests") && (has("layers") || has("config")) {
        return Err(ImageError::NotAnImage("its manifest is an image index at the same time".to_owned()));
    }
    if fields.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
        return Err(ImageError::NotAnImage(
            "it has a schema 1 manifest, which nothing has made since 2017; push it again with a current client"
                .to_owned(),
        ));
    }
    let inside = fields.get("mediaType").and_then(Value::as_str).filter(|media_type| !media_type.is_empty());
    let declared = inside.or(content_type).map(media_type::bare).unwrap_or_default().to_owned();
    let is_index = match declared.as_str() {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => has("manifests"),
    };
    if is_index {
        return Ok(Document::Index(read_entries(tolerant::entries_of(fields))));
    }
    let manifest = tolerant::manifest_of(fields)?;
    let manifest = Manifest {
        config: Descriptor::read(manifest.config())?,
        layers: manifest.layers().iter().map(Descriptor::read).collect::<Result<_, _>>()?,
    };
    refuse_what_is_no_image(&manifest, &declared)?;
    Ok(Document::Manifest(manifest))
}

/// Returns what a manifest of any kind names: its config and its layers.
pub(crate) fn blobs(bytes: &[u8]) -> Option<Vec<Descriptor>> {
    let fields: Value = serde_json::from_slice(bytes).ok()?;
    let layers = fields.get("layers")?.as_array()?.iter();
    let named = fields.get("config").into_iter().chain(layers);
    let read = |blob: &Value| {
        let text = |name: &str| blob.get(name).and_then(Value::as_str);
        Descriptor::new(text("mediaType").unwrap_or_default(), text("digest")?, blob.get("size")?.as_u64()?).ok()
    };
    named.map(read).collect()
}

/// Reads an image index, such as that of a layout.
pub(crate) fn parse_index(what: &str, bytes: &[u8]) -> Result<Index, ImageError> {
    Ok(read_entries(tolerant::entries_of(tolerant::object(what, bytes)?)))
}

fn read_entries(entries: Vec<Result<image::Descriptor, ImageError>>) -> Index {
    let mut index = Index::default();
    for entry in entries {
        match entry.and_then(|entry| IndexEntry::read(&entry)) {
            Ok(entry) => index.entries.push(entry),
            Err(error) => drop(index.refused.get_or_insert(error)),
        }
    }
    index
}

/// Refuses what is not an image: registries hold charts, signatures and modules with the same kind of manifest.
fn refuse_what_is_no_image(manifest: &Manifest, declared: &str) -> Result<(), ImageError> {
    let config = media_type::bare(&manifest.config.media_type);
    let layers = &manifest.layers;
    let is_docker = declared == DOCKER_MANIFEST
        || (declared != OCI_MANIFEST && layers.iter().any(|layer| media_type::is_docker(&layer.media_type)));
    // Docker clients of 2016 wrote any type for configs. An OCI manifest with such a config is an artifact.
    let is_image = [OCI_CONFIG, DOCKER_CONFIG].contains(&config) || (is_docker && media_type::is_generic(config));
    if !is_image {
        return Err(ImageError::NotAnImage(format!("it is an artifact of the type {config:?}")));
    }
    for layer in layers {
        if layer.media_type.ends_with("+encrypted") {
            return Err(ImageError::NotAnImage(format!("its layer {} is encrypted", layer.digest)));
        }
        if !media_type::may_be_tar(&layer.media_type) {
            return Err(ImageError::NotAnImage(format!(
                "its layer {} has the type {:?}",
                layer.digest, layer.media_type
            )));
        }
    }
    Ok(())
}

/// Parses the config of an image of `layers` layers.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<Config, ImageError> {
    let malformed = |cause: String| ImageError::Malformed { what: "config".to_owned(), cause };
    let config = tolerant::config(bytes)?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(malformed(format!("it names {} layers, but the manifest names {layers}", diff_ids.len())));
    }
    Ok(Config {
        platform: tolerant::config_platform(bytes),
        diff_ids: diff_ids
            .iter()
            .map(|text| {
                let sha512 = text.starts_with("sha512:");
                let named = |error: crate::DigestError| match sha512 {
                    true => format!("its DiffID {text} is a SHA-512; only layers with SHA-256 DiffIDs are read"),
                    false => error.to_string(),
                };
                text.parse::<DiffId>().map_err(|error| malformed(named(error)))
            })
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "0".repeat(64)), "size": 3})
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "config": descriptor(OCI_CONFIG),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+zstd")],
        })
    }

    fn read(document: &Value, content_type: Option<&str>) -> Result<Document, ImageError> {
        parse(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn the_media_type_inside_decides_before_the_one_outside() {
        let mut inside = manifest();
        inside["mediaType"] = json!(OCI_MANIFEST);
        assert!(matches!(read(&inside, Some(OCI_INDEX)), Ok(Document::Manifest(_))));
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(read(&index, None), Ok(Document::Index(_))));
        assert!(matches!(
            read(&index, Some("application/vnd.oci.image.index.v1+json; charset=utf-8")),
            Ok(Document::Index(_))
        ));
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let mut both = manifest();
        both["manifests"] = json!([]);
        let mut chart = manifest();
        chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json");
        let mut encrypted = manifest();
        encrypted["layers"] = json!([descriptor("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")]);
        let mut wasm = manifest();
        wasm["layers"] = json!([descriptor("application/wasm")]);
        let mut negative = manifest();
        negative["layers"][0]["size"] = json!(-1);
        let mut sha384 = manifest();
        sha384["config"]["digest"] = json!(format!("sha384:{}", "0".repeat(96)));
        let table = [
            (both, "image index at the same time"),
            (chart, "helm"),
            (encrypted, "is encrypted"),
            (wasm, "application/wasm"),
            (negative, "-1"),
            (sha384, "sha384"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (json!([]), "manifest"),
        ];
        for (document, hint) in table {
            let error = read(&document, None).expect_err(hint).to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_docker_manifest_may_give_its_config_any_type_and_an_oci_manifest_may_not() {
        for media_type in ["application/octet-stream", "application/json", "text/html", ""] {
            let mut old = manifest();
            old["config"] = descriptor(media_type);
            old["layers"] = json!([descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")]);
            old["mediaType"] = json!(DOCKER_MANIFEST);
            assert!(read(&old, None).is_ok(), "{media_type:?}");
            assert!(read(&old, Some("application/json")).is_ok(), "{media_type:?}");
            old["mediaType"] = json!(null);
            assert!(read(&old, None).is_ok(), "{media_type:?}: its layers are docker's");
            old["mediaType"] = json!(OCI_MANIFEST);
            assert!(read(&old, None).is_err(), "{media_type:?}");
        }
        let mut chart = manifest();
        chart["mediaType"] = json!(DOCKER_MANIFEST);
        chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json");
        assert!(read(&chart, None).is_err());
    }

    #[test]
    fn a_config_must_name_as_many_layers_as_the_manifest() {
        let config = json!({"os": "linux", "architecture": "arm", "variant": "v7",
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]}});
        let bytes = config.to_string();
        let read = parse_config(bytes.as_bytes(), 1).unwrap();
        let platform = read.platform.named().unwrap().to_string();
        assert_eq!((platform.as_str(), read.diff_ids.len()), ("linux/arm/v7", 1));
        assert!(
            parse_config(bytes.as_bytes(), 2)
                .unwrap_err()
                .to_string()
                .contains("names 1 layers, but the manifest names 2")
        );
    }

    #[test]
    fn bytes_that_differ_from_their_descriptor_are_refused() {
        let good =
            Descriptor { media_type: String::new(), digest: Digest::of(b"abc").into(), size: 3, urls: Vec::new() };
        good.verify("config", b"abc").unwrap();
        assert!(matches!(good.verify("config", b"abd"), Err(ImageError::WrongDigest { .. })));
        assert!(matches!(good.verify("config", b"ab"), Err(ImageError::WrongSize { .. })));
    }
}
