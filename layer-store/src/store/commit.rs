//! Makes a new image from one in the store, with more layers on top.

use oci_spec::image::{ImageManifestBuilder, MediaType};
use serde_json::{Value, json};

use super::images::Images;
use crate::archive::ConfigChange;
use crate::error::StoreError;
use crate::oci::manifest::descriptor;
use crate::{DiffId, Digest, Reference};

/// What the history of a new image says about its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// When it was made, in the format of RFC 3339.
    pub created: String,
    /// What made it.
    pub created_by: String,
    /// Who made it.
    pub author: Option<String>,
    /// A comment.
    pub comment: Option<String>,
}

impl Images<'_> {
    /// Makes a new image from the one with the manifest `base`: adds `on_top` (layers of this store, lowest first)
    /// above its layers and names it `reference`, which is a canonical name without a digest. Returns the digest of its
    /// manifest. Layers that only additional stores have are copied into this one.
    ///
    /// The rest of its config is that of the base, with `changes`. In its manifest every layer is a plain tar, so its digest is its
    /// DiffID. Fails if the base or a layer is missing.
    pub fn commit(
        &self,
        base: &Digest,
        on_top: &[DiffId],
        changes: &[ConfigChange],
        provenance: &Provenance,
        reference: &str,
    ) -> Result<Digest, StoreError> {
        let image = self.store.image_by_manifest(reference, base)?;
        if reference.parse::<Reference>().is_ok_and(|reference| reference.digest().is_some()) {
            return Err(StoreError::Promise(reference.to_owned()));
        }
        let malformed = |cause: String| StoreError::Document { path: self.store.layout.manifest(base), cause };
        let bytes = self.manifest_bytes(&image.config_digest)?;
        // A type for configs would drop fields that it does not know.
        let mut config: Value = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        extend(&mut config, on_top, provenance).ok_or_else(|| malformed("its config has no rootfs".to_owned()))?;
        change(&mut config, changes).ok_or_else(|| malformed("its config has no fields".to_owned()))?;
        let config = serde_json::to_vec(&config).unwrap_or_default();

        // The new image is permanent, so the layers below it must be permanent too.
        self.store.layers().adopt(image.layers.iter().chain(on_top))?;
        let layers = image.layers.iter().chain(on_top).map(|layer| {
            let bytes = self.store.layers().bytes(layer).ok_or(StoreError::NoSuchLayer(*layer))?;
            descriptor(MediaType::ImageLayer, &layer.0, bytes).map_err(&malformed)
        });
        let layers = layers.collect::<Result<Vec<_>, StoreError>>()?;
        let config_digest = self.put_manifest(&config)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, &config_digest, config.len() as u64).map_err(&malformed)?)
            .layers(layers)
            .build()
            .map_err(|error| malformed(error.to_string()))?;
        let manifest = self.put_manifest(&serde_json::to_vec(&manifest).unwrap_or_default())?;
        self.tag(reference, &manifest)?;
        Ok(manifest)
    }
}

/// Adds layers and their history to a config.
fn extend(config: &mut Value, on_top: &[DiffId], provenance: &Provenance) -> Option<()> {
    let Value::Object(fields) = config else { return None };
    let rootfs = fields.entry("rootfs").or_insert_with(|| json!({}));
    if rootfs.is_null() {
        *rootfs = json!({});
    }
    let rootfs = rootfs.as_object_mut()?;
    if rootfs.get("type").is_none_or(Value::is_null) {
        rootfs.insert("type".to_owned(), json!("layers"));
    }
    list(rootfs, "diff_ids")?.extend(on_top.iter().map(|layer| json!(layer.to_string())));
    fields.insert("created".to_owned(), json!(provenance.created));
    if let Some(author) = &provenance.author {
        fields.insert("author".to_owned(), json!(author));
    }
    let history = list(fields, "history")?;
    for _ in on_top {
        let mut entry = json!({ "created": provenance.created, "created_by": provenance.created_by });
        for (field, value) in [("author", &provenance.author), ("comment", &provenance.comment)] {
            if let (Some(value), Value::Object(entry)) = (value, &mut entry) {
                entry.insert(field.to_owned(), json!(value));
            }
        }
        history.push(entry);
    }
    Some(())
}

/// Makes changes to what a config says about processes.
fn change(config: &mut Value, changes: &[ConfigChange]) -> Option<()> {
    if changes.is_empty() {
        return Some(());
    }
    let run = config.as_object_mut()?.entry("config").or_insert(Value::Null);
    if run.is_null() {
        *run = json!({});
    }
    let run = run.as_object_mut()?;
    ConfigChange::apply_all(changes, run);
    Some(())
}

/// Returns a list in a config, which is made empty if it is absent or `null`.
fn list<'a>(fields: &'a mut serde_json::Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    let list = fields.entry(name).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_made_to_any_config() {
        let changes = ["USER web".parse().unwrap()];
        for mut config in [json!({ "config": { "User": "root" } }), json!({ "config": null }), json!({})] {
            change(&mut config, &changes).unwrap();
            assert_eq!(config["config"]["User"], "web");
        }
        assert!(change(&mut json!([]), &changes).is_none());
    }

    #[test]
    fn a_config_keeps_what_nobody_here_knows_and_gains_layers_with_their_history() {
        let mut config =
            json!({ "x": 1, "config": { "Env": ["A=b"] }, "rootfs": { "type": "layers", "diff_ids": ["a"] } });
        let layer = DiffId(Digest::of(b"layer"));
        let provenance = Provenance {
            created: "2026-01-01T00:00:00Z".into(),
            created_by: "lamina commit".into(),
            author: None,
            comment: Some("why".into()),
        };
        extend(&mut config, &[layer], &provenance).unwrap();
        assert_eq!(config["x"], 1);
        assert_eq!(config["rootfs"]["diff_ids"], json!(["a", layer.to_string()]));
        let history = json!([{ "created": "2026-01-01T00:00:00Z", "created_by": "lamina commit", "comment": "why" }]);
        assert_eq!(config["history"], history);
        let with_layer = json!({ "type": "layers", "diff_ids": [layer.to_string()] });
        for rootfs in [json!(null), json!({}), json!({ "type": null, "diff_ids": null })] {
            let mut bare = json!({ "rootfs": rootfs, "history": null });
            extend(&mut bare, &[layer], &provenance).unwrap();
            assert_eq!(bare["rootfs"], with_layer);
            assert_eq!(bare["history"], history);
        }
        assert!(extend(&mut json!([]), &[layer], &provenance).is_none());
    }
}
