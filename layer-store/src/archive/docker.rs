//! The images of a docker archive: what `docker save` and `skopeo copy ... docker-archive:` write.
//!
//! It holds no manifest that a registry would know, only a list of configs and layers (moby's
//! `image/spec`, "Combined Image JSON + Filesystem Changeset Format"). One is made here, from nothing but
//! the config and the tars, so that the same image gets the same manifest whichever way it was saved.

use oci_spec::image::MediaType;
use serde::Deserialize;

use super::error::ImportError;
use super::files::Files;
use super::{Found, FoundLayer};
use crate::oci::manifest::{self, CONFIG_LIMIT, MANIFEST_LIMIT};
use crate::oci::platform::Platform;
use crate::{DiffId, Digest, ImageError};

/// The list of images.
pub(super) const MARK: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// From the bottom up.
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Every image of an archive whose list is there.
pub(super) fn images(files: &dyn Files, source_name: &str, wanted: &Platform) -> Result<Vec<Found>, ImportError> {
    let bad = |cause| ImportError::Image { source_name: source_name.to_owned(), cause };
    let document = |path: &str, limit| {
        let missing = || ImportError::Missing { source_name: source_name.to_owned(), file: path.to_owned() };
        files.document(path, limit)?.ok_or_else(missing)
    };
    let list = document(MARK, MANIFEST_LIMIT)?;
    let items: Vec<Item> = serde_json::from_slice(&list).map_err(|e| {
        let cause = format!("it is not the list that docker save writes: {e}");
        bad(ImageError::Malformed { what: MARK.to_owned(), cause })
    })?;
    let mut images = Vec::new();
    for item in items {
        let config_bytes = document(&item.config, CONFIG_LIMIT)?;
        if let Some(promised) = digest_in(&item.config) {
            manifest::verify("config", &config_bytes, &promised).map_err(bad)?;
        }
        let layers = item.layers.unwrap_or_default();
        let config = manifest::parse_config(&config_bytes, layers.len()).map_err(bad)?;
        images.push(Found {
            written: item.repo_tags.unwrap_or_default(),
            digests: vec![Digest::of(&config_bytes)],
            platform: config.platform.assumed(wanted),
            layers: layers
                .into_iter()
                .zip(config.diff_ids)
                .map(|(path, diff_id)| FoundLayer { path, diff_id, blob: None })
                .collect(),
            config_bytes,
            manifest_bytes: None,
        });
    }
    Ok(images)
}

/// The digest that the name of a config promises: `<hex>.json`, or a blob of a layout.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}

/// An OCI manifest for an image whose layers are plain tars: each with its DiffID and its bytes.
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
