//! `store.json`: the format of a store, and the features that it uses.
//!
//! ```text
//! { "format": 1, "incompatible": ["name", ...], "read_only_compatible": ["name", ...] }
//! ```
//!
//! - **format**: a number that grows when a program of today could not even find its way about. A store of a higher
//!   format than a program knows is refused.
//! - **incompatible**: what a program must know to read the store right. One that it does not know: refused.
//! - **read_only_compatible**: what a program must know to change the store. One that it does not know: the store is
//!   read, and mounted and run from, and every change is refused. Leases, their locks and `lock` are a part of the
//!   format, so who only reads holds what it uses as everybody does.
//!
//! A feature is noted before the first thing that needs it gets its place, and stays noted. Keys that this program
//! does not know stay as they are.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::layout::Layout;
use super::lock::FileLock;
use super::{Store, make};
use crate::durable;
use crate::fault::{self, FaultPoint};
use crate::observer::Silent;
use crate::sharing::blob;

/// The newest format of a store that this program knows, and the one that it makes.
pub(super) const FORMAT: u32 = 1;

/// What a store may use beyond its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// As `store.json` has it: lower case, words separated by hyphens.
    pub(crate) name: &'static str,
    /// Whether a program that does not know it may still read the store.
    pub(crate) readable: bool,
}

/// Layers may be thin: see `sharing`. Who does not know it finds no `blob` of such a layer.
pub(super) const THIN_LAYERS: Feature = Feature { name: "thin-layers", readable: false };

/// All features that this program knows.
const KNOWN: &[Feature] = &[THIN_LAYERS];

/// `store.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreFile {
    pub(super) format: u32,
    #[serde(default)]
    incompatible: Vec<String>,
    #[serde(default)]
    read_only_compatible: Vec<String>,
    /// Whatever else newer programs keep here.
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

impl StoreFile {
    /// That of a store without one: a new store, or one that has lost it, whose layers tell what they need.
    pub(super) fn new(layout: &Layout) -> Result<Self, StoreError> {
        let mut file = Self { format: FORMAT, ..Self::default() };
        let layers = fs::read_dir(layout.layers()).map_err(StoreError::io(&layout.layers()))?;
        if layers.flatten().any(|layer| layer.path().join(blob::THIN).exists()) {
            file.list(THIN_LAYERS).push(THIN_LAYERS.name.to_owned());
        }
        Ok(file)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads the file of a store; makes a store where there is none.
    pub(super) fn read_or_make(layout: &Layout) -> Result<Self, StoreError> {
        if !path(layout).exists() {
            fault::point(FaultPoint::StoreSought);
            make(layout)?;
        }
        Self::read(layout)
    }

    pub(super) fn read(layout: &Layout) -> Result<Self, StoreError> {
        let path = path(layout);
        let text = fs::read(&path).map_err(StoreError::io(&path))?;
        serde_json::from_slice(&text).map_err(|error| {
            let remedy = "remove it: the next command writes it anew, and no image is lost";
            StoreError::Unreadable { path, cause: error.to_string(), remedy }
        })
    }

    /// Refuses a store that this program would misread. Gives the features for whose sake it must not change it.
    pub(super) fn check(&self, layout: &Layout) -> Result<Option<String>, StoreError> {
        if self.format > FORMAT {
            return Err(StoreError::Format { path: layout.root().to_owned(), found: self.format, known: FORMAT });
        }
        match unknown(&self.incompatible) {
            Some(features) => Err(StoreError::Feature { path: layout.root().to_owned(), features }),
            None => Ok(unknown(&self.read_only_compatible)),
        }
    }

    fn list(&mut self, feature: Feature) -> &mut Vec<String> {
        if feature.readable { &mut self.read_only_compatible } else { &mut self.incompatible }
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.join("store.json")
}

/// Those features that this program does not know, for a message.
fn unknown(features: &[String]) -> Option<String> {
    let is_known = |name: &str| KNOWN.iter().any(|known| known.name == name);
    let unknown: Vec<String> = features.iter().filter(|name| !is_known(name)).map(|name| format!("{name:?}")).collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}

impl Store {
    /// Notes that the store uses `feature` from now on, and waits until that is on the disk. To be called before the
    /// first thing that needs it gets its place, and not while the store's own lock is held.
    pub(crate) fn use_feature(&self, feature: Feature) -> Result<(), StoreError> {
        let is_noted = |file: &mut StoreFile| file.list(feature).iter().any(|name| name == feature.name);
        if is_noted(&mut StoreFile::read(&self.layout)?) {
            return Ok(());
        }
        let staging = self.staging()?;
        let _one_at_a_time = FileLock::wait(&self.layout.lock("features"), &Silent, "writes store.json")?;
        let mut file = StoreFile::read(&self.layout)?;
        if is_noted(&mut file) {
            return Ok(());
        }
        file.list(feature).push(feature.name.to_owned());
        let written = staging.path().join("store.json");
        durable::write(&written, &file.to_bytes())?;
        fault::point(FaultPoint::FeatureStaged);
        durable::publish(&written, &path(&self.layout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READABLE: Feature = Feature { name: "a-readable", readable: true };
    const OTHER: Feature = Feature { name: "an-incompatible", readable: false };

    fn store() -> (Store, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        (Store::open(directory.path()).expect("a store"), directory)
    }

    #[test]
    fn a_feature_is_noted_once_and_keeps_what_else_is_there() {
        let (store, directory) = store();
        let path = directory.path().join("store.json");
        let mut file = StoreFile::read(&store.layout).unwrap();
        file.other.insert("later".into(), "kept".into());
        fs::write(&path, file.to_bytes()).unwrap();
        for _ in 0..2 {
            store.use_feature(READABLE).unwrap();
            store.use_feature(OTHER).unwrap();
        }
        let file = StoreFile::read(&store.layout).unwrap();
        assert_eq!(file.read_only_compatible, ["a-readable"]);
        assert_eq!(file.incompatible, ["an-incompatible"]);
        assert_eq!(file.other["later"], "kept");
    }

    #[test]
    fn features_noted_at_the_same_time_are_all_noted() {
        let (_, directory) = store();
        // Opened before: whoever meets a feature that this program does not know only reads.
        let stores = [READABLE, OTHER].map(|feature| (feature, Store::open(directory.path()).unwrap()));
        std::thread::scope(|scope| {
            for (feature, store) in &stores {
                scope.spawn(|| store.use_feature(*feature).unwrap());
            }
        });
        let file = StoreFile::read(&Layout::new(directory.path())).unwrap();
        assert_eq!((file.incompatible.len(), file.read_only_compatible.len()), (1, 1));
    }
}
