//! Writes a stack as an OCI image layout directory (image specification, `image-layout.md`).

use std::fs;
use std::path::Path;

use anyhow::Result;
use layer_store::Digest;
use serde_json::{Value, json};

use super::stack::{Packing, Stack};

/// The tag of a layout's one image.
pub const TAG: &str = "case";

/// The manifest and the config of the stack.
///
/// # Errors
/// Never fails; the signature is that of the serializer.
pub fn documents(stack: &Stack) -> Result<(Vec<u8>, Vec<u8>)> {
    let described = |bytes: &[u8], media_type: &str| {
        json!({ "mediaType": media_type,
        "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
    };
    let diff_ids: Vec<String> = stack.layers.iter().map(|layer| Digest::of(&layer.tar()).to_string()).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let layers: Vec<Value> =
        stack.layers.iter().map(|layer| described(&layer.packed(), media_type(layer.frame.packing))).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
        "config": described(&config, "application/vnd.oci.image.config.v1+json"),
    });
    Ok((serde_json::to_vec(&manifest)?, config))
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

const fn media_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// Writes the layout into a directory.
///
/// # Errors
/// If the host cannot write.
pub fn write_layout(stack: &Stack, directory: &Path) -> Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (manifest, config) = documents(stack)?;
    let layers = stack.layers.iter().map(super::stack::Layer::packed);
    for blob in layers.chain([manifest.clone(), config]) {
        fs::write(blobs.join(Digest::of(&blob).hex()), blob)?;
    }
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": Digest::of(&manifest).to_string(), "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": TAG },
    }]});
    fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}
