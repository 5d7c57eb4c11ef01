//! Pins keep what must outlive the processes that use it. For example, a pin keeps the base of a stopped machine.
//!
//! A lease ends with its process; a pin ends with a path outside the store. `pins/<hex>`, named by the SHA-256 of that
//! path, is JSON: the path (`holder`), what users are told (`purpose`), and in `held` one line for each thing, as in a
//! lease. A collection respects it for as long as something exists at the path, and deletes the pin after that. `note` is
//! text of the holder's own, which the store only keeps: a holder that has lost its files finds them described there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::list_if_there;
use super::handle::Store;
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lease::Held;
use crate::regular;
use crate::{BaseId, DiffId, Digest};

/// What to do about a pin that cannot be read.
const REMEDY: &str = "remove it, unless you want to start a stopped machine again";

/// One file of `pins/`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PinFile {
    holder: PathBuf,
    purpose: String,
    held: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
}

/// A pin of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// It holds for as long as something exists at this path.
    pub holder: PathBuf,
    /// What users are told about it.
    pub purpose: String,
    /// The layers that it keeps, in the order in which they were given.
    pub layers: Vec<DiffId>,
    /// The holder's own text.
    pub note: String,
}

/// The operations on a store's pins: see [`Store::pins`].
#[derive(Clone, Copy, Debug)]
pub struct Pins<'store> {
    pub(super) store: &'store Store,
}

impl Store {
    /// Returns the operations on its pins.
    #[must_use]
    pub fn pins(&self) -> Pins<'_> {
        Pins { store: self }
    }
}

impl Pins<'_> {
    /// Keeps an image (named by its manifest), the layers of a variant and their base for as long as something exists
    /// at `holder`, an absolute path outside the store. `purpose` tells users what holds them. A pin keeps nothing in
    /// additional stores: [`crate::Layers::adopt`] copies their layers into this store.
    ///
    /// It replaces an earlier pin of `holder`.
    pub fn add(
        &self,
        holder: &Path,
        purpose: &str,
        manifest: &Digest,
        layers: &[DiffId],
        variant: &[DiffId],
    ) -> Result<(), StoreError> {
        let documents: Vec<Digest> = self.store.image_by_manifest(purpose, manifest)?.documents().collect();
        documents.iter().try_for_each(|digest| self.store.adopt_document(digest))?;
        let documents = documents.into_iter().map(Held::Manifest);
        let base = Held::Base(BaseId::of(layers, variant));
        let layers = layers.iter().chain(variant).copied().map(Held::Layer);
        let held: Vec<Held> = layers.chain(documents).chain([base]).collect();
        self.publish(holder, purpose, held, "")
    }

    /// Keeps these layers for as long as something exists at `holder`, an absolute path outside the store. Layers that
    /// only additional stores have are copied into this one, and once this returns, all of them are on the disk. `note` is
    /// kept with the pin.
    ///
    /// It replaces an earlier pin of `holder`.
    pub fn add_layers(&self, holder: &Path, purpose: &str, layers: &[DiffId], note: &str) -> Result<(), StoreError> {
        self.store.layers().adopt(layers)?;
        // Another process may have moved a layer to its place without having synced it yet.
        durable::sync_directory(&self.store.layout.layers())?;
        self.store.sync_places(layers)?;
        self.publish(holder, purpose, layers.iter().copied().map(Held::Layer).collect(), note)
    }

    fn publish(&self, holder: &Path, purpose: &str, held: Vec<Held>, note: &str) -> Result<(), StoreError> {
        let file = PinFile {
            holder: holder.to_owned(),
            purpose: purpose.replace('\n', " "),
            held: held.iter().map(|thing| thing.line().trim_end().to_owned()).collect(),
            note: note.to_owned(),
        };
        let staging = self.store.staging()?;
        let written = staging.path().join("pin");
        durable::write(&written, &serde_json::to_vec(&file).unwrap_or_default())?;
        fault::point(FaultPoint::PinStaged);
        let place = self.store.layout.pin(holder);
        self.store.holding(|| {
            // A store that an earlier version created has no such directory.
            regular::make_directory(&self.store.layout.pins()).map_err(StoreError::io(&place))?;
            // The process that created the directory may not have synced it yet.
            durable::sync_directory(self.store.root())?;
            durable::publish(&written, &place)?;
            fault::point(FaultPoint::PinPublished);
            Ok(((), held))
        })
    }

    /// Returns all pins of this store that can be read, also those whose holders no longer exist.
    pub fn list(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::new();
        for path in list_if_there(&self.store.layout.pins())? {
            match read_file(&path) {
                Ok(Some(file)) => {
                    let held = file.held.iter().filter_map(|line| Held::parse(line));
                    let layers = held.filter_map(|thing| match thing {
                        Held::Layer(layer) => Some(layer),
                        Held::Base(_) | Held::Manifest(_) => None,
                    });
                    let layers = layers.collect();
                    pins.push(Pin { holder: file.holder, purpose: file.purpose, layers, note: file.note });
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("skipped: {error}"),
            }
        }
        Ok(pins)
    }

    /// Deletes the pin of `holder`, if any, before a collection would. Once this returns, a power cut does not bring it back.
    pub fn remove(&self, holder: &Path) -> Result<(), StoreError> {
        let place = self.store.layout.pin(holder);
        match fs::remove_file(&place) {
            // An earlier call, or one at the same time, may have removed it without a sync.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                if !self.store.layout.pins().exists() {
                    return Ok(());
                }
            }
            Err(cause) => return Err(StoreError::io(&place)(cause)),
            Ok(()) => fault::point(FaultPoint::PinRemoved),
        }
        durable::sync_directory(&self.store.layout.pins())
    }
}

fn read_file(path: &Path) -> Result<Option<PinFile>, StoreError> {
    let text = match regular::read(path, regular::NOTE_MAX) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(StoreError::io(path)(cause)),
    };
    let pin = serde_json::from_slice(&text).map_err(|error| StoreError::Unreadable {
        path: path.to_owned(),
        cause: error.to_string(),
        remedy: REMEDY,
    })?;
    Ok(Some(pin))
}

/// Returns the purpose of a pin and what it holds, or `None` if nothing exists at its holder's path anymore.
pub(super) fn read(path: &Path) -> Result<Option<(String, Vec<Held>)>, StoreError> {
    let Some(pin) = read_file(path)? else { return Ok(Some(Default::default())) };
    // If the path cannot be examined, something may exist there.
    if fs::symlink_metadata(&pin.holder).is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let held = pin.held.iter().filter_map(|line| Held::parse(line)).collect();
    Ok(Some((pin.purpose, held)))
}

impl super::layout::Layout {
    pub(super) fn pins(&self) -> PathBuf {
        self.join("pins")
    }

    fn pin(&self, holder: &Path) -> PathBuf {
        self.pins().join(Digest::of(holder.as_os_str().as_encoded_bytes()).hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_for_as_long_as_something_is_at_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let holder = directory.path().join("machine");
        fs::create_dir(&holder).unwrap();
        let path = directory.path().join("pin");
        let line = format!("layer {}", DiffId(Digest::of(b"x")));
        let file =
            PinFile { holder: holder.clone(), purpose: "machine m".into(), held: vec![line], note: String::new() };
        fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        let (purpose, held) = read(&path).unwrap().unwrap();
        assert_eq!((purpose.as_str(), held), ("machine m", vec![Held::Layer(DiffId(Digest::of(b"x")))]));
        fs::remove_dir(&holder).unwrap();
        assert!(read(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Some((String::new(), Vec::new())));
    }

    #[test]
    fn a_pin_of_layers_keeps_them_and_its_note_until_its_holder_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (root, holder) = (directory.path().join("store"), directory.path().join("holder"));
        fs::create_dir(&holder).unwrap();
        let open = || Store::open(&root).unwrap();
        let expected = crate::ExpectedLayer::default();
        let layer = open().layers().ingest(&mut &[0; 1024][..], &expected).unwrap().diff_id;
        open().pins().add_layers(&holder, "a test", &[layer], "text").unwrap();
        assert!(open().collect(false).unwrap().garbage.is_empty());
        let pin = Pin { holder: holder.clone(), purpose: "a test".into(), layers: vec![layer], note: "text".into() };
        assert_eq!(open().pins().list().unwrap(), [pin]);
        let usage = open().usage().unwrap();
        assert_eq!((usage.pins[0].purpose.as_str(), usage.pins[0].only_here), ("a test", usage.layers[0].on_disk()));
        assert!(open().pins().add_layers(&holder, "a test", &[DiffId(Digest::of(b"absent"))], "").is_err());
        fs::remove_dir(&holder).unwrap();
        open().collect(false).unwrap();
        assert!(open().layers().list().unwrap().is_empty() && open().pins().list().unwrap().is_empty());
    }
}
