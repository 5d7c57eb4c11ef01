//! The images of a docker archive: what `docker save` and `skopeo copy ... docker-archive:` write.
//!
//! Such an archive has no registry manifest, only a list of configs and layers (moby's `image/spec`,
//! "Combined Image JSON + Filesystem Changeset Format"). The manifest is made here from only the config and
//! the tars, so that the same image gets the same manifest regardless of how it was saved.

use oci_spec::image::MediaType;
use serde::Deserialize;
use serde_json::Value;

use super::error::ImportError;
use super::files::Files;
use super::{Found, FoundLayer};
use crate::oci::manifest::{self, CONFIG_LIMIT, MANIFEST_LIMIT};
use crate::oci::platform::Platform;
use crate::{DiffId, Digest, ImageError};

/// The list of images.
pub(super) const LIST: &str = "manifest.json";

/// One item of the list. A broken item does not affect the others.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) written: Vec<String>,
    described: Result<Described, String>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    config: String,
    /// From the bottom up.
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Item {
    fn read(item: &Value) -> Self {
        let names = item.get("RepoTags").and_then(Value::as_array).into_iter().flatten();
        Self {
            written: names.filter_map(Value::as_str).map(str::to_owned).collect(),
            described: Described::deserialize(item).map_err(|error| error.to_string()),
        }
    }

    /// Returns the digest of its config, if the config's file name contains one.
    pub(super) fn config(&self) -> Option<Digest> {
        digest_in(&self.described.as_ref().ok()?.config)
    }
}

/// Returns every item of the list without reading the images.
pub(super) fn items(files: &dyn Files, source_name: &str) -> Result<Vec<Item>, ImportError> {
    let list = document(files, source_name, LIST, MANIFEST_LIMIT)?;
    match serde_json::from_slice(&list) {
        Ok(Value::Array(items)) => Ok(items.iter().map(Item::read).collect()),
        Ok(_) => Err(malformed(source_name, "it is not the list that docker save writes")),
        Err(error) => Err(malformed(source_name, &format!("it is not the list that docker save writes: {error}"))),
    }
}

/// Reads the image of an item.
pub(super) fn image(
    files: &dyn Files,
    source_name: &str,
    item: &Item,
    wanted: &Platform,
) -> Result<Found, ImportError> {
    let bad = |cause| ImportError::Image { source_name: source_name.to_owned(), cause };
    let described = item.described.as_ref().map_err(|cause| malformed(source_name, cause))?;
    let config_bytes = document(files, source_name, &described.config, CONFIG_LIMIT)?;
    if let Some(promised) = digest_in(&described.config) {
        manifest::verify("config", &config_bytes, &promised.into()).map_err(bad)?;
    }
    let layers = described.layers.as_deref().unwrap_or_default();
    let config = manifest::parse_config(&config_bytes, layers.len()).map_err(bad)?;
    let layers = layers.iter().zip(config.diff_ids);
    Ok(Found {
        written: item.written.clone(),
        proved: Vec::new(),
        config: Digest::of(&config_bytes),
        platform: config.platform.assumed(wanted),
        layers: layers.map(|(path, diff_id)| FoundLayer { path: path.clone(), diff_id, blob: None }).collect(),
        config_bytes,
        manifest_bytes: None,
    })
}

fn document(files: &dyn Files, source_name: &str, path: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
    let missing = || ImportError::Missing { source_name: source_name.to_owned(), file: path.to_owned() };
    files.document(path, limit)?.ok_or_else(missing)
}

fn malformed(source_name: &str, cause: &str) -> ImportError {
    let cause = ImageError::Malformed { what: LIST.to_owned(), cause: cause.to_owned() };
    ImportError::Image { source_name: source_name.to_owned(), cause }
}

/// Returns the digest in the file name of a config: `<hex>.json`, or a blob of a layout.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}

/// Returns an OCI manifest for an image whose layers are plain tars, given each layer's DiffID and size in bytes.
pub(super) fn manifest(config: &[u8], layers: &[(DiffId, u64)]) -> Vec<u8> {
    let descriptor = |media_type: &str, digest: Digest, size: u64| serde_json::json!({"mediaType": media_type, "digest": digest, "size": size});
    let layers: Vec<_> =
        layers.iter().map(|(layer, size)| descriptor(MediaType::ImageLayer.as_ref(), layer.0, *size)).collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest.as_ref(),
        "config": descriptor(MediaType::ImageConfig.as_ref(), Digest::of(config), config.len() as u64),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}
