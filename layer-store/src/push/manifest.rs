//! One image: its layers, its config and its manifest.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use oci_spec::image::{Descriptor as Described, ImageManifest, MediaType};

use super::PushedLayer;
use super::compress::Packing;
use super::destination::Document;
use super::error::PushError;
use super::layer::{Delivered, Sender};
use crate::oci::manifest::{self, Descriptor};
use crate::oci::media_type::{self, DOCKER_MANIFEST, OCI_MANIFEST};
use crate::oci::parallel;
use crate::registry::UploadBlob;
use crate::store::Image;
use crate::{BlobDigest, DiffId, LayerState};

impl Sender<'_> {
    /// Sends the layers and the config of an image. Returns the manifest, which is not sent yet.
    pub(super) fn image(&self, image: &Image) -> Result<(Document, Vec<PushedLayer>), PushError> {
        let bad = |error: crate::ImageError| PushError::Document("manifest", error.to_string());
        let bytes = self.store.images().manifest_bytes(&image.manifest_digest)?;
        let described = match manifest::parse(&bytes, None).map_err(bad)? {
            manifest::Document::Manifest(manifest) => manifest,
            manifest::Document::Index(_) => {
                return Err(bad(crate::ImageError::NotAnImage("it is an index".to_owned())));
            }
        };
        let mut layers: Vec<(Descriptor, DiffId)> = Vec::new();
        for (descriptor, layer) in described.layers.iter().zip(&image.layers) {
            if !layers.iter().any(|(known, _)| known.digest == descriptor.digest) {
                layers.push((descriptor.clone(), *layer));
            }
        }
        for (descriptor, _) in &layers {
            self.report(descriptor, LayerState::Waiting, 0, descriptor.size);
        }
        let weight = |(descriptor, _): &(Descriptor, DiffId)| descriptor.size;
        let cancel = || self.destination.cancel();
        let delivered =
            parallel::for_each(&layers, self.options.registry.parallel, &cancel, weight, |(wanted, layer)| {
                self.layer(wanted, layer)
            });
        let delivered =
            delivered.map_err(|error| if self.observer.cancelled() { PushError::Cancelled } else { error })?;
        if self.observer.cancelled() {
            return Err(PushError::Cancelled);
        }
        let config = self.store.images().manifest_bytes(&image.config_digest)?;
        self.send_document(&described.config.digest, &config)?;
        let pushed = delivered.iter().map(Delivered::pushed).collect();
        let by_digest: HashMap<BlobDigest, &Delivered> =
            layers.iter().map(|(descriptor, _)| descriptor.digest).zip(&delivered).collect();
        if delivered.iter().all(|layer| layer.packed.is_none()) {
            let media_type = own_type(&image.manifest);
            return Ok((Document::new(bytes, &media_type), pushed));
        }
        let document = rewritten(image, &by_digest)?;
        self.observer.notice(&format!(
            "{}: the layers have other compressed bytes, so the manifest is {} and not {}",
            image.reference, document.digest, image.manifest_digest
        ));
        Ok((document, pushed))
    }

    /// Sends a small blob, unless it is there.
    pub(super) fn send_document(&self, digest: &BlobDigest, bytes: &[u8]) -> Result<(), PushError> {
        if self.destination.has_blob(digest)? {
            return Ok(());
        }
        let mut file = self.scratch()?;
        file.write_all(bytes).map_err(PushError::host(self.store.root()))?;
        let blob = UploadBlob { file: Arc::new(file), digest: *digest, size: bytes.len() as u64 };
        let short: String = digest.hex().chars().take(12).collect();
        self.destination.put_blob(&blob, &short)?;
        let progress =
            crate::LayerProgress { name: &short, state: LayerState::Done, bytes: blob.size, total: Some(blob.size) };
        self.observer.layer(&progress);
        Ok(())
    }
}

/// Makes the manifest that describes the layers as they were sent. It is one of OCI, because docker's has no type for zstd.
fn rewritten(image: &Image, delivered: &HashMap<BlobDigest, &Delivered>) -> Result<Document, PushError> {
    let bad = |error: String| PushError::Document("manifest", error);
    let mut layers = Vec::new();
    for described in image.manifest.layers() {
        let digest: BlobDigest = described.digest().to_string().parse().map_err(|error| bad(format!("{error}")))?;
        let packed = delivered.get(&digest).and_then(|layer| Some((layer, layer.packed?)));
        layers.push(match packed {
            Some((layer, packing)) => {
                let sha256 = layer.digest.sha256().ok_or_else(|| bad("a layer has no SHA-256".to_owned()))?;
                let mut new = manifest::descriptor(packing.media_type(), &sha256, layer.bytes).map_err(bad)?;
                new.set_annotations(described.annotations().clone());
                new
            }
            None => of_oci(described),
        });
    }
    let mut manifest: ImageManifest = image.manifest.clone();
    manifest.set_media_type(Some(MediaType::ImageManifest));
    let mut config = image.manifest.config().clone();
    config.set_media_type(MediaType::ImageConfig);
    manifest.set_config(config);
    manifest.set_layers(layers);
    let bytes = serde_json::to_vec(&manifest).map_err(|error| bad(error.to_string()))?;
    Ok(Document::new(bytes, OCI_MANIFEST))
}

/// Returns the type of a manifest that may not say it itself.
fn own_type(manifest: &ImageManifest) -> String {
    match manifest.media_type() {
        Some(media_type) => media_type.to_string(),
        None if media_type::is_docker(manifest.config().media_type().as_ref()) => DOCKER_MANIFEST.to_owned(),
        None => OCI_MANIFEST.to_owned(),
    }
}

/// Returns a layer's description with a type of OCI instead of docker's.
fn of_oci(described: &Described) -> Described {
    let mut described = described.clone();
    let own = described.media_type().to_string();
    if media_type::is_docker(&own) {
        let new = match (Packing::of(&own), media_type::is_foreign(&own)) {
            (Some(Packing::Gzip), true) => Some(MediaType::ImageLayerNonDistributableGzip),
            (Some(Packing::Plain), true) => Some(MediaType::ImageLayerNonDistributable),
            (Some(packing), _) => Some(packing.media_type()),
            (None, _) => None,
        };
        if let Some(new) = new {
            described.set_media_type(new);
        }
    }
    described
}
