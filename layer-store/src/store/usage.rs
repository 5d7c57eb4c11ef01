//! How much disk space images and layers use, and what they share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::disk::{disk_bytes, list_if_there};
use super::handle::Store;
use super::layers::Layers;
use super::names::Other;
use crate::DiffId;
use crate::error::StoreError;
use crate::sharing::blob;

/// The disk usage of a store. All sizes are in bytes; sizes "on disk" count allocated blocks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// By name.
    pub images: Vec<ImageUsage>,
    /// By DiffID, including layers that no image has.
    pub layers: Vec<LayerUsage>,
    /// What stopped machines and other programs keep, by purpose.
    pub pins: Vec<PinUsage>,
    /// The tars of all layers on disk.
    pub blobs: u64,
    /// All layer indexes on disk, including sharing maps and tables of contents.
    pub indexes: u64,
    /// Remnants on disk: what layers borrow from layers that are no longer in the store.
    #[serde(rename = "rests")]
    pub remnants: u64,
    /// All bases on disk.
    pub bases: u64,
    /// Manifests and configs on disk.
    pub manifests: u64,
    /// The received parts of layers whose transfer ended early, on disk.
    pub partial: u64,
    /// How much more the images would use if each had its own copy of its layers.
    pub saved_by_layers: u64,
    /// How much more the tars would use if each had all of its content in its own file.
    pub saved_by_files: u64,
}

/// One image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageUsage {
    /// The canonical name.
    pub reference: String,
    /// Its layers, bottom first, and then those of other platforms that are kept with it.
    pub layers: Vec<DiffId>,
    /// Length of its layers' tars.
    pub apparent: u64,
    /// Its layers on disk, indexes included.
    pub on_disk: u64,
    /// The part of it that other images need too: shared layers, and what other images borrow from its layers.
    pub shared: u64,
    /// The part that only this image needs: what removing it would free.
    pub unique: u64,
    /// Content of its layers that is stored only once although another layer has it too, or the same layer has it
    /// twice.
    pub borrowed: u64,
    /// The size on disk of its layers that only additional stores have.
    pub elsewhere: u64,
    /// Why its layers are unknown, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerUsage {
    /// The layer.
    pub diff_id: DiffId,
    /// Length of its tar.
    pub apparent: u64,
    /// Its tar on disk.
    pub blob: u64,
    /// Its index on disk, including sharing map and table of contents.
    pub index: u64,
    /// The images that have it.
    pub images: BTreeSet<String>,
    /// Bytes of its tar that are not stored for it separately, by the layer that has them. Content that the layer
    /// repeats is listed under its own DiffID.
    pub borrows: BTreeMap<DiffId, u64>,
    /// Bytes of other tars that are stored in its file, by the layer that they belong to.
    pub lends: BTreeMap<DiffId, u64>,
}

/// What the pins with one purpose keep.
#[derive(Clone, Debug, Serialize)]
pub struct PinUsage {
    /// What holds it, as users are told.
    pub purpose: String,
    /// Its layers, in the order of their digests.
    pub layers: BTreeSet<DiffId>,
    /// Its layers on disk, indexes included.
    pub on_disk: u64,
    /// The part of it in layers that neither an image nor a pin with another purpose has.
    pub only_here: u64,
}

/// What one layer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes on disk, the index included.
    pub on_disk: u64,
    /// The number of its files, directories and so on; those with several names count once.
    pub inodes: u64,
}

impl LayerUsage {
    /// The size of blob and index on disk.
    #[must_use]
    pub fn on_disk(&self) -> u64 {
        self.blob + self.index
    }

    /// Bytes of its tar that are not in its own file, or that are in it only once although the tar repeats them.
    #[must_use]
    pub fn borrowed(&self) -> u64 {
        self.borrows.values().sum()
    }
}

impl Layers<'_> {
    /// Measures one layer.
    pub fn footprint(&self, layer: &DiffId) -> Result<Footprint, StoreError> {
        let usage = self.store.home(layer).layer_usage(*layer).ok_or(StoreError::NoSuchLayer(*layer))?;
        let inodes = self.store.layer_index(layer)?.inodes().len() as u64;
        Ok(Footprint { on_disk: usage.on_disk(), inodes })
    }
}

impl Store {
    /// Measures everything.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut layers: BTreeMap<DiffId, LayerUsage> = BTreeMap::new();
        let mut remnants = 0;
        for diff_id in self.stored_layers()? {
            remnants += disk_bytes(&self.layout.layer(&diff_id).join(blob::REMNANT));
            // Only a remnant is left of it, or a collection has just removed it.
            let Some(usage) = self.layer_usage(diff_id) else { continue };
            layers.insert(diff_id, usage);
        }
        let borrows: Vec<_> = layers.values().map(|layer| (layer.diff_id, layer.borrows.clone())).collect();
        for (borrower, donor, bytes) in borrows.iter().flat_map(|(id, all)| all.iter().map(move |(d, b)| (*id, d, *b)))
        {
            if let Some(donor) = layers.get_mut(donor).filter(|donor| donor.diff_id != borrower) {
                donor.lends.insert(borrower, bytes);
            }
        }
        let mut stacks = Vec::new();
        for summary in self.own_images()? {
            let image = self.image_by_manifest(&summary.reference, &summary.manifest_digest);
            let (mut stack, error) = match image {
                Ok(image) => (image.layers, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            for other in &summary.others {
                if let Ok(Other::Image(image)) = self.other(&summary.reference, other) {
                    stack.extend(image.layers);
                }
            }
            for layer in &stack {
                if let Some(usage) = layers.get_mut(layer) {
                    usage.images.insert(summary.reference.clone());
                }
            }
            stacks.push((summary.reference, stack, error));
        }
        let images = stacks.into_iter().map(|(name, stack, error)| {
            let image = self.image_usage(name, stack, &layers);
            ImageUsage { error, ..image }
        });
        let images: Vec<_> = images.collect();
        let together: u64 = layers.values().filter(|layer| !layer.images.is_empty()).map(LayerUsage::on_disk).sum();
        let apart: u64 = images.iter().map(|image| image.on_disk).sum();
        Ok(Usage {
            blobs: layers.values().map(|layer| layer.blob).sum(),
            indexes: layers.values().map(|layer| layer.index).sum(),
            remnants,
            bases: disk_bytes(&self.layout.join("bases")),
            manifests: disk_bytes(&self.layout.join("manifests")),
            partial: list_if_there(&self.layout.partials())?.iter().map(|path| disk_bytes(path)).sum(),
            pins: self.pin_usage(&layers)?,
            saved_by_layers: apart.saturating_sub(together),
            saved_by_files: layers.values().map(LayerUsage::borrowed).sum(),
            layers: layers.into_values().collect(),
            images,
        })
    }

    fn pin_usage(&self, layers: &BTreeMap<DiffId, LayerUsage>) -> Result<Vec<PinUsage>, StoreError> {
        let mut held: BTreeMap<String, BTreeSet<DiffId>> = BTreeMap::new();
        for pin in self.pins().list()? {
            // The next collection removes a pin whose holder is gone.
            let is_gone = fs::symlink_metadata(&pin.holder).is_err_and(|cause| cause.kind() == ErrorKind::NotFound);
            if !is_gone {
                held.entry(pin.purpose).or_default().extend(pin.layers);
            }
        }
        let is_elsewhere = |purpose: &String, layer: &LayerUsage| {
            let by_pin = held.iter().any(|(other, held)| other != purpose && held.contains(&layer.diff_id));
            by_pin || !layer.images.is_empty()
        };
        let pins = held.iter().map(|(purpose, held)| {
            let found = || held.iter().filter_map(|layer| layers.get(layer));
            PinUsage {
                purpose: purpose.clone(),
                layers: held.clone(),
                on_disk: found().map(LayerUsage::on_disk).sum(),
                only_here: found().filter(|layer| !is_elsewhere(purpose, layer)).map(LayerUsage::on_disk).sum(),
            }
        });
        Ok(pins.collect())
    }

    fn layer_usage(&self, diff_id: DiffId) -> Option<LayerUsage> {
        let tar = fs::symlink_metadata(self.layout.tar(&diff_id)?).ok()?;
        let directory = self.layout.layer(&diff_id);
        let index = ["index", "contents", blob::MAP].map(|name| disk_bytes(&directory.join(name)));
        let map = blob::map_of(&self.layout.layers(), &diff_id).ok().flatten();
        let mut borrows = BTreeMap::new();
        if let Some(map) = &map {
            let donors: Vec<DiffId> = [diff_id].into_iter().chain(map.donors()).collect();
            for run in map.runs() {
                if let Some(donor) = donors.get(run.donor) {
                    *borrows.entry(*donor).or_default() += run.length;
                }
            }
        }
        Some(LayerUsage {
            diff_id,
            apparent: tar.len(),
            blob: tar.blocks() * 512,
            index: index.iter().sum(),
            images: BTreeSet::new(),
            borrows,
            lends: BTreeMap::new(),
        })
    }

    fn image_usage(&self, reference: String, stack: Vec<DiffId>, layers: &BTreeMap<DiffId, LayerUsage>) -> ImageUsage {
        // A layer that an image has twice is stored once.
        let distinct: BTreeSet<_> = stack.iter().collect();
        let (mut apparent, mut on_disk, mut shared, mut borrowed, mut elsewhere) = (0, 0, 0, 0, 0);
        for layer in distinct {
            let Some(layer) = layers.get(layer) else {
                let lent = self.home(layer).layer_usage(*layer);
                apparent += lent.as_ref().map_or(0, |lent| lent.apparent);
                elsewhere += lent.as_ref().map_or(0, LayerUsage::on_disk);
                continue;
            };
            apparent += layer.apparent;
            on_disk += layer.on_disk();
            borrowed += layer.borrowed();
            shared += match layer.images.len() {
                0 | 1 => self.lent_to_others(&reference, layer, layers),
                _ => layer.on_disk(),
            };
        }
        let unique = on_disk - shared;
        ImageUsage { reference, layers: stack, apparent, on_disk, shared, unique, borrowed, elsewhere, error: None }
    }

    /// Returns how many bytes of a layer stay when the only image that has it is removed, because layers of others
    /// borrow them.
    fn lent_to_others(&self, reference: &str, layer: &LayerUsage, layers: &BTreeMap<DiffId, LayerUsage>) -> u64 {
        let of_others = |borrower: &&DiffId| {
            let borrower = layers.get(*borrower);
            borrower.is_some_and(|borrower| borrower.images.iter().any(|image| image != reference))
        };
        let borrowers: Vec<&DiffId> = layer.lends.keys().filter(of_others).collect();
        let borrowed = self.borrowed(borrowers.into_iter());
        let needed = borrowed.donors.get(&layer.diff_id);
        let remnant = needed.and_then(|needed| self.remnant(layer.diff_id, needed));
        remnant.map_or(0, |remnant| layer.on_disk().saturating_sub(remnant.frees))
    }
}
