//! `store.json`: the format of a store, and the features that it uses.
//!
//! ```text
//! { "format": 1, "incompatible": ["name", ...], "read_only_compatible": ["name", ...] }
//! ```
//!
//! - **format**: a number that is raised when older programs could not even find things in the store. A program refuses
//!   a store of a higher format than it knows.
//! - **incompatible**: features that a program must know to read the store correctly. A program that does not know one
//!   of them refuses the store.
//! - **read_only_compatible**: features that a program must know to change the store. A program that does not know one
//!   of them can read the store, mount from it and run from it, but refuses every change. Leases, their locks and
//!   `lock` are part of the format, so a program that only reads holds what it uses like any other.
//!
//! A feature is recorded before the first thing that needs it gets its place, and stays recorded. Keys that this
//! program does not know are preserved.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::error::StoreError;
use crate::regular;
use crate::sharing::blob;

/// The newest store format that this program knows, and the one that it creates.
pub(super) const FORMAT: u32 = 1;

/// A feature that a store may use beyond its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// The name in `store.json`: lower case, words separated by hyphens.
    pub(crate) name: &'static str,
    /// Whether a program that does not know it may still read the store.
    pub(crate) readable: bool,
}

/// Layers may be thin: see `sharing`. A program that does not know them finds no `blob` of such a layer.
pub(super) const THIN_LAYERS: Feature = Feature { name: "thin-layers", readable: false };

/// Every layer was hashed by the program that put it into this store: see `hashed.rs`. A program that does not know this may
/// copy layers of other stores without computing their digests.
pub(super) const HASHED_LAYERS: Feature = Feature { name: "hashed-layers", readable: true };

/// Names may keep images for several platforms: see `image_file.rs`. A program that does not know this would collect all but one of
/// them.
pub(super) const OTHER_PLATFORMS: Feature = Feature { name: "other-platforms", readable: true };

/// All features that this program knows.
const KNOWN: &[Feature] = &[THIN_LAYERS, HASHED_LAYERS, OTHER_PLATFORMS];

/// `store.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreFile {
    pub(super) format: u32,
    #[serde(default)]
    pub(super) incompatible: Vec<String>,
    #[serde(default)]
    pub(super) read_only_compatible: Vec<String>,
    /// Other keys, written by newer programs.
    #[serde(flatten)]
    pub(super) other: serde_json::Map<String, serde_json::Value>,
}

impl StoreFile {
    /// Returns the file for a store that has none: a new store, or one that has lost the file. In the latter case the
    /// layers show which features they need.
    pub(super) fn new(layout: &Layout) -> Result<Self, StoreError> {
        let mut file = Self { format: FORMAT, ..Self::default() };
        let layers = fs::read_dir(layout.layers()).map_err(StoreError::io(&layout.layers()))?;
        let layers: Vec<PathBuf> = layers.flatten().map(|layer| layer.path()).collect();
        if layers.iter().any(|layer| layer.join(blob::THIN).exists()) {
            file.list(THIN_LAYERS).push(THIN_LAYERS.name.to_owned());
        }
        // Which program put them there is not known.
        if layers.is_empty() {
            file.list(HASHED_LAYERS).push(HASHED_LAYERS.name.to_owned());
        }
        Ok(file)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    pub(super) fn read(layout: &Layout) -> Result<Self, StoreError> {
        let path = path(layout);
        let text = regular::read(&path, regular::NOTE_MAX).map_err(StoreError::io(&path))?;
        serde_json::from_slice(&text).map_err(|error| {
            let remedy = "remove it: the next command creates a new one, and no image is lost";
            StoreError::Unreadable { path, cause: error.to_string(), remedy }
        })
    }

    /// Fails for a store that this program would misread. Returns the features because of which it must not change the
    /// store.
    pub(super) fn check(&self, layout: &Layout) -> Result<Option<String>, StoreError> {
        if self.format > FORMAT {
            return Err(StoreError::Format { path: layout.root().to_owned(), found: self.format, known: FORMAT });
        }
        match unknown(&self.incompatible) {
            Some(features) => Err(StoreError::Feature { path: layout.root().to_owned(), features }),
            None => Ok(unknown(&self.read_only_compatible)),
        }
    }

    pub(super) fn has(&self, feature: Feature) -> bool {
        let listed = if feature.readable { &self.read_only_compatible } else { &self.incompatible };
        listed.iter().any(|name| name == feature.name)
    }

    pub(super) fn list(&mut self, feature: Feature) -> &mut Vec<String> {
        if feature.readable { &mut self.read_only_compatible } else { &mut self.incompatible }
    }
}

pub(super) fn path(layout: &Layout) -> PathBuf {
    layout.join("store.json")
}

/// Returns the features that this program does not know, for a message.
fn unknown(features: &[String]) -> Option<String> {
    let is_known = |name: &str| KNOWN.iter().any(|known| known.name == name);
    let unknown: Vec<String> = features.iter().filter(|name| !is_known(name)).map(|name| format!("{name:?}")).collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}
