//! Manifests, image indexes and configs: checked against their digests and read, wherever they came from.

use oci_distribution::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE,
    ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageIndex, OciImageManifest,
};
use oci_spec::image::{self, DescriptorBuilder, ImageConfiguration, MediaType, Sha256Digest};

use super::ImageError;
use super::platform::Platform;
use crate::{DiffId, Digest};

/// The largest manifest or index read, in bytes: what registries must accept at least (distribution
/// specification, "Pushing Manifests").
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// The largest config read, in bytes. Real ones are below 100 kB.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;

/// What a registry is asked for, by media type.
pub(crate) const MANIFEST_MEDIA_TYPES: [&str; 4] =
    [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];

/// Some bytes elsewhere: what they are, their digest, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A descriptor as a manifest of ours has it.
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

/// What a name can lead to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<ImageIndexEntry>),
}

/// What of a config matters for fetching.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) platform: Platform,
    /// From the bottom up.
    pub(crate) diff_ids: Vec<DiffId>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: &str, size: i64) -> Result<Self, ImageError> {
        let malformed = |cause: String| ImageError::Malformed { what: "descriptor".to_owned(), cause };
        Ok(Self {
            media_type: media_type.to_owned(),
            digest: digest.parse().map_err(|e| malformed(format!("{e}")))?,
            size: u64::try_from(size).map_err(|_| malformed(format!("{digest} has the size {size}")))?,
        })
    }

    fn read(descriptor: &OciDescriptor) -> Result<Self, ImageError> {
        Self::new(&descriptor.media_type, &descriptor.digest, descriptor.size)
    }

    /// The first 12 hex digits: how people name a blob to each other.
    pub(crate) fn short(&self) -> String {
        short(&self.digest)
    }

    /// Checks that `bytes` are what this descriptor stands for; `what` names them in the error.
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
pub(crate) fn verify(what: &str, bytes: &[u8], expected: &Digest) -> Result<(), ImageError> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(ImageError::WrongDigest { what: what.to_owned(), expected: *expected, actual })
}

/// Reads a manifest or an index.
///
/// The document's own `mediaType` decides, then `content_type` (what the registry or the descriptor
/// called it), then the fields it has. A document that could be read both ways is refused, so that no
/// two programs see two images in it (CVE-2021-41190).
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ImageError> {
    let malformed =
        |cause: serde_json::Error| ImageError::Malformed { what: "manifest".to_owned(), cause: cause.to_string() };
    let fields: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
    let has = |name: &str| fields.get(name).is_some();
    if has("manifests") && (has("layers") || has("config")) {
        return Err(ImageError::NotAnImage("its manifest is an image index at the same time".to_owned()));
    }
    if fields.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Err(ImageError::NotAnImage(
            "it has a schema 1 manifest, which nothing has made since 2017; push it again with a current client"
                .to_owned(),
        ));
    }
    let declared = fields.get("mediaType").and_then(serde_json::Value::as_str).or(content_type);
    let is_index = match declared.map(|media_type| media_type.split(';').next().unwrap_or(media_type).trim()) {
        Some(OCI_IMAGE_INDEX_MEDIA_TYPE | IMAGE_MANIFEST_LIST_MEDIA_TYPE) => true,
        Some(OCI_IMAGE_MEDIA_TYPE | IMAGE_MANIFEST_MEDIA_TYPE) => false,
        _ => has("manifests"),
    };
    if is_index {
        let index: OciImageIndex = serde_json::from_value(fields).map_err(malformed)?;
        return Ok(Document::Index(index.manifests));
    }
    let manifest: OciImageManifest = serde_json::from_value(fields).map_err(malformed)?;
    let manifest = Manifest {
        config: Descriptor::read(&manifest.config)?,
        layers: manifest.layers.iter().map(Descriptor::read).collect::<Result<_, _>>()?,
    };
    refuse_what_is_no_image(&manifest)?;
    Ok(Document::Manifest(manifest))
}

/// Registries hold charts, signatures and modules under the same manifests as images.
fn refuse_what_is_no_image(manifest: &Manifest) -> Result<(), ImageError> {
    let config = manifest.config.media_type.as_str();
    if ![IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE].contains(&config) {
        return Err(ImageError::NotAnImage(format!("it is an artifact of the type {config:?}")));
    }
    for layer in &manifest.layers {
        if layer.media_type.ends_with("+encrypted") {
            return Err(ImageError::NotAnImage(format!("its layer {} is encrypted", layer.digest)));
        }
        if !layer.media_type.contains("tar") {
            return Err(ImageError::NotAnImage(format!(
                "its layer {} has the type {:?}",
                layer.digest, layer.media_type
            )));
        }
    }
    Ok(())
}

/// Reads a config that belongs to an image of `layers` layers.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<Config, ImageError> {
    let malformed = |cause: String| ImageError::Malformed { what: "config".to_owned(), cause };
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(malformed(format!("it names {} layers, the manifest {layers}", diff_ids.len())));
    }
    Ok(Config {
        platform: Platform::normalised(
            &config.os().to_string(),
            &config.architecture().to_string(),
            config.variant().as_deref(),
        ),
        diff_ids: diff_ids
            .iter()
            .map(|text| text.parse::<DiffId>().map_err(|e| malformed(e.to_string())))
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "0".repeat(64)), "size": 3})
    }

    fn manifest() -> serde_json::Value {
        json!({
            "schemaVersion": 2,
            "config": descriptor(IMAGE_CONFIG_MEDIA_TYPE),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+zstd")],
        })
    }

    fn read(document: &serde_json::Value, content_type: Option<&str>) -> Result<Document, ImageError> {
        parse(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn the_media_type_inside_decides_before_the_one_outside() {
        let mut inside = manifest();
        inside["mediaType"] = json!(OCI_IMAGE_MEDIA_TYPE);
        assert!(matches!(read(&inside, Some(OCI_IMAGE_INDEX_MEDIA_TYPE)), Ok(Document::Manifest(_))));
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
        let mut sha512 = manifest();
        sha512["config"]["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
        let table = [
            (both, "image index at the same time"),
            (chart, "helm"),
            (encrypted, "is encrypted"),
            (wasm, "application/wasm"),
            (negative, "size -1"),
            (sha512, "sha512"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (json!([]), "manifest"),
        ];
        for (document, hint) in table {
            let error = read(&document, None).expect_err(hint).to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_config_must_name_as_many_layers_as_the_manifest() {
        let config = json!({"os": "linux", "architecture": "arm", "variant": "v7",
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]}});
        let bytes = config.to_string();
        let read = parse_config(bytes.as_bytes(), 1).unwrap();
        assert_eq!((read.platform.to_string().as_str(), read.diff_ids.len()), ("linux/arm/v7", 1));
        assert!(parse_config(bytes.as_bytes(), 2).unwrap_err().to_string().contains("names 1 layers, the manifest 2"));
    }

    #[test]
    fn bytes_that_differ_from_their_descriptor_are_refused() {
        let good = Descriptor { media_type: String::new(), digest: Digest::of(b"abc"), size: 3 };
        good.verify("config", b"abc").unwrap();
        assert!(matches!(good.verify("config", b"abd"), Err(ImageError::WrongDigest { .. })));
        assert!(matches!(good.verify("config", b"ab"), Err(ImageError::WrongSize { .. })));
    }
}
