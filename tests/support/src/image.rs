//! Small images that a test makes, and the OCI layouts that hold them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::random::noise;

/// How a layer's tar is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
    /// With xz.
    Xz,
    /// With bzip2.
    Bzip2,
}

/// A layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The uncompressed tar.
    pub tar: Vec<u8>,
    /// The tar as it is stored.
    pub packed: Vec<u8>,
    /// How `packed` is made from `tar`.
    pub packing: Packing,
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The bytes of its configuration.
    pub config: Vec<u8>,
    /// The bytes of its manifest.
    pub manifest: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

impl Layer {
    /// A layer of one file, mode 0644.
    ///
    /// # Panics
    /// When a tar cannot hold the path.
    #[must_use]
    pub fn new(path: &str, content: &[u8], packing: Packing) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).expect("writing to memory");
        Self::of_tar(builder.into_inner().expect("writing to memory"), packing)
    }

    /// An empty layer, like that of a build step that changes nothing.
    #[must_use]
    pub fn empty(packing: Packing) -> Self {
        Self::of_tar(vec![0; 1024], packing)
    }

    /// A layer of this uncompressed tar.
    ///
    /// # Panics
    /// Never: it is compressed in memory.
    #[must_use]
    pub fn of_tar(tar: Vec<u8>, packing: Packing) -> Self {
        let packed = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).expect("writing to memory");
                encoder.finish().expect("writing to memory")
            }
            Packing::Zstd => zstd::encode_all(tar.as_slice(), 1).expect("writing to memory"),
            Packing::Xz => xz(&tar),
            Packing::Bzip2 => bzip2(&tar),
        };
        Self { tar, packed, packing }
    }

    /// The digest of the tar, `sha256:<hex>`.
    #[must_use]
    pub fn diff_id(&self) -> String {
        digest(&self.tar)
    }

    /// The digest of the layer as it is stored.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.packed)
    }

    fn media_type(&self) -> &'static str {
        match self.packing {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            // No specification defines these types. The first bytes of a layer show what it is.
            Packing::Xz => "application/vnd.oci.image.layer.v1.tar+xz",
            Packing::Bzip2 => "application/vnd.oci.image.layer.v1.tar+bzip2",
        }
    }
}

/// The bytes compressed with xz.
///
/// # Panics
/// Never: it is compressed in memory.
#[must_use]
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("writing to memory");
    writer.write_all(bytes).expect("writing to memory");
    writer.finish().expect("writing to memory")
}

/// The bytes compressed with bzip2.
///
/// # Panics
/// Never: it is compressed in memory.
#[must_use]
pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    writer.write_all(bytes).expect("writing to memory");
    writer.finish().expect("writing to memory")
}

impl Image {
    /// An image for this host. Its command is `/bin/sh`.
    #[must_use]
    pub fn new(layers: Vec<Layer>) -> Self {
        Self::for_platform(layers, go_architecture())
    }

    /// An image for `linux` and a processor, named as in the image specification.
    #[must_use]
    pub fn for_platform(layers: Vec<Layer>, architecture: &str) -> Self {
        Self::with_config(layers, architecture, &json!({"Cmd": ["/bin/sh"]}))
    }

    /// The same with this `config` in its configuration.
    #[must_use]
    pub fn with_config(layers: Vec<Layer>, architecture: &str, config: &Value) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(Layer::diff_id).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|l| descriptor(l.media_type(), &l.packed)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        Self { config, manifest, layers }
    }

    /// The digest of the manifest.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// The DiffID of each layer, the lowest first.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(Layer::diff_id).collect()
    }

    /// Every blob: layers, configuration and manifest.
    #[must_use]
    pub fn blobs(&self) -> Vec<&[u8]> {
        let mut blobs: Vec<&[u8]> = self.layers.iter().map(|l| l.packed.as_slice()).collect();
        blobs.extend([self.config.as_slice(), self.manifest.as_slice()]);
        blobs
    }
}

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The processor of this host, named as in the image specification.
#[must_use]
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image of three layers, each with a different packing; images with different seeds have no content in common.
#[must_use]
pub fn three_layers(seed: u64) -> Image {
    Image::new(vec![
        Layer::new("etc/os-release", &noise(seed, 300_000), Packing::Gzip),
        Layer::new("usr/bin/tool", &noise(seed + 1, 200_000), Packing::Zstd),
        Layer::new("var/lib/state", &noise(seed + 2, 100_000), Packing::Plain),
    ])
}

/// `sha256:<hex>` of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a manifest or an index says about a blob.
#[must_use]
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// The entry of an index for an image, with a name where one is given.
///
/// # Panics
/// When the image's configuration is not JSON.
#[must_use]
pub fn entry(image: &Image, name: Option<&str>) -> Value {
    let mut entry = descriptor(MANIFEST, &image.manifest);
    let config: Value = serde_json::from_slice(&image.config).expect("a configuration");
    entry["platform"] = json!({"os": config["os"], "architecture": config["architecture"]});
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    entry
}

/// Writes an OCI layout: the blobs of `images` and an index of `entries`.
///
/// # Panics
/// When it cannot be written.
pub fn write_layout(directory: &Path, images: &[&Image], entries: &[Value]) {
    std::fs::create_dir_all(directory.join("blobs/sha256")).expect("the layout's blobs");
    for blob in images.iter().flat_map(|image| image.blobs()) {
        put_blob(directory, blob);
    }
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the layout's version");
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    std::fs::write(directory.join("index.json"), index.to_string()).expect("the layout's index");
}

/// Writes a blob into a layout.
///
/// # Panics
/// When it cannot be written.
pub fn put_blob(layout: &Path, blob: &[u8]) {
    std::fs::write(blob_path(layout, &digest(blob)), blob).expect("a blob of the layout");
}

/// The file of a blob in a layout.
#[must_use]
pub fn blob_path(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}
