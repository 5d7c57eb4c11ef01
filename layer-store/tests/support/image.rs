//! Small images made on the spot, and the layouts that hold them.

use std::io::Write;
use std::path::Path;

use layer_store::Digest;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub packed: Vec<u8>,
    pub packing: Packing,
}

#[derive(Clone)]
pub struct Image {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub layers: Vec<Layer>,
}

impl Layer {
    /// A layer with one file of the given content, which does not compress to nothing.
    pub fn new(path: &str, content: &[u8], packing: Packing) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).unwrap();
        let tar = builder.into_inner().unwrap();
        let packed = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Zstd => zstd::encode_all(tar.as_slice(), 1).unwrap(),
        };
        Self { tar, packed, packing }
    }

    pub fn diff_id(&self) -> String {
        Digest::of(&self.tar).to_string()
    }

    pub fn digest(&self) -> String {
        Digest::of(&self.packed).to_string()
    }

    fn media_type(&self) -> &'static str {
        match self.packing {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

impl Image {
    pub fn new(layers: Vec<Layer>) -> Self {
        Self::for_platform(layers, go_architecture())
    }

    pub fn for_platform(layers: Vec<Layer>, architecture: &str) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(Layer::diff_id).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/true"]},
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

    pub fn digest(&self) -> String {
        Digest::of(&self.manifest).to_string()
    }

    pub fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(Layer::diff_id).collect()
    }

    /// Every blob, the manifest too.
    pub fn blobs(&self) -> Vec<&[u8]> {
        let mut blobs: Vec<&[u8]> = self.layers.iter().map(|l| l.packed.as_slice()).collect();
        blobs.extend([self.config.as_slice(), self.manifest.as_slice()]);
        blobs
    }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The processor of this host in the words of the image specification.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Three layers, one of each packing; `seed` makes their content differ from other images'.
pub fn three_layers(seed: u8) -> Image {
    Image::new(vec![
        Layer::new("etc/os-release", &noise(seed, 300_000), Packing::Gzip),
        Layer::new("usr/bin/tool", &noise(seed.wrapping_add(1), 200_000), Packing::Zstd),
        Layer::new("var/lib/state", &noise(seed.wrapping_add(2), 100_000), Packing::Plain),
    ])
}

/// Bytes that no compression shortens, the same for the same seed.
pub fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    next.flatten().take(length).collect()
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

/// The entry of an index for an image, with a name where one is given.
pub fn entry(image: &Image, name: Option<&str>) -> Value {
    let mut entry = descriptor(MANIFEST, &image.manifest);
    let config: Value = serde_json::from_slice(&image.config).unwrap();
    entry["platform"] = json!({"os": config["os"], "architecture": config["architecture"]});
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    entry
}

/// Writes an OCI layout: the blobs of `images` and an index of `entries`.
pub fn write_layout(directory: &Path, images: &[&Image], entries: &[Value]) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in images.iter().flat_map(|image| image.blobs()) {
        std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
    }
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

/// The file of a blob in a layout.
pub fn blob_path(layout: &Path, digest: &str) -> std::path::PathBuf {
    layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
}
