//! What images and layers take on the disk, and with whom they share it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::Store;
use super::error::StoreError;
use super::gc::disk_bytes;
use crate::DiffId;

/// What a store holds. All sizes are in bytes; those "on disk" count blocks that are allocated.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// By name.
    pub images: Vec<ImageUsage>,
    /// By DiffID, layers that no image has included.
    pub layers: Vec<LayerUsage>,
    /// All blobs on disk.
    pub blobs: u64,
    /// All layer indexes on disk.
    pub indexes: u64,
    /// All bases on disk.
    pub bases: u64,
    /// Manifests and configs on disk.
    pub manifests: u64,
    /// What the images would take more if each had its layers for itself.
    pub saved_by_layers: u64,
}

/// One image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageUsage {
    /// The canonical name.
    pub reference: String,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
    /// Length of its layers' tars.
    pub apparent: u64,
    /// Its layers on disk, indexes included.
    pub on_disk: u64,
    /// The part of it that other images have too.
    pub shared: u64,
    /// The part that only this image has: what removing it would free.
    pub unique: u64,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerUsage {
    /// The layer.
    pub diff_id: DiffId,
    /// Length of its tar.
    pub apparent: u64,
    /// Its blob on disk.
    pub blob: u64,
    /// Its index on disk.
    pub index: u64,
    /// The images that have it.
    pub images: BTreeSet<String>,
}

impl LayerUsage {
    /// Blob and index on disk.
    #[must_use]
    pub fn on_disk(&self) -> u64 {
        self.blob + self.index
    }
}

impl Store {
    /// Adds up what everything takes.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut layers: BTreeMap<DiffId, LayerUsage> = BTreeMap::new();
        for diff_id in self.stored_layers()? {
            let blob = fs::metadata(self.layout.blob(&diff_id));
            let index = fs::metadata(self.layout.layer_index(&diff_id)).map_or(0, |index| index.blocks() * 512);
            // A collection may take a layer away meanwhile.
            let Ok(blob) = blob else { continue };
            let images = BTreeSet::new();
            let usage = LayerUsage { diff_id, apparent: blob.len(), blob: blob.blocks() * 512, index, images };
            layers.insert(diff_id, usage);
        }
        let mut stacks = Vec::new();
        for summary in self.own_images()? {
            let image = self.image_by_manifest(&summary.reference, &summary.manifest_digest);
            let stack = image.map(|image| image.layers).unwrap_or_default();
            for layer in &stack {
                if let Some(usage) = layers.get_mut(layer) {
                    usage.images.insert(summary.reference.clone());
                }
            }
            stacks.push((summary.reference, stack));
        }
        let images: Vec<_> = stacks.into_iter().map(|(name, stack)| image_usage(name, stack, &layers)).collect();
        let together: u64 = layers.values().filter(|layer| !layer.images.is_empty()).map(LayerUsage::on_disk).sum();
        let apart: u64 = images.iter().map(|image| image.on_disk).sum();
        Ok(Usage {
            blobs: layers.values().map(|layer| layer.blob).sum(),
            indexes: layers.values().map(|layer| layer.index).sum(),
            bases: disk_bytes(&self.layout.join("bases")),
            manifests: disk_bytes(&self.layout.join("manifests")),
            saved_by_layers: apart.saturating_sub(together),
            layers: layers.into_values().collect(),
            images,
        })
    }
}

fn image_usage(reference: String, stack: Vec<DiffId>, layers: &BTreeMap<DiffId, LayerUsage>) -> ImageUsage {
    // A layer that an image has twice is there once.
    let distinct: BTreeSet<_> = stack.iter().collect();
    let (mut apparent, mut on_disk, mut shared) = (0, 0, 0);
    for layer in distinct.into_iter().filter_map(|layer| layers.get(layer)) {
        apparent += layer.apparent;
        on_disk += layer.on_disk();
        if layer.images.len() > 1 {
            shared += layer.on_disk();
        }
    }
    ImageUsage { reference, layers: stack, apparent, on_disk, shared, unique: on_disk - shared }
}
