//! What holds of every store at every moment, whoever was killed while writing it.

use std::path::{Path, PathBuf};

use crate::layout::digest;

/// The DiffIDs of the layers of a store, each proved against its blob.
///
/// # Panics
/// When a layer has no blob, or one that is not what its name says.
#[must_use]
pub fn sound_layers(store: &Path) -> Vec<String> {
    let mut layers: Vec<String> = below(&store.join("layers/sha256"))
        .into_iter()
        .map(|layer| {
            let blob = std::fs::read(layer.join("blob")).unwrap_or_else(|error| panic!("{}: {error}", layer.display()));
            let name = layer.file_name().expect("a layer has a name").to_string_lossy().into_owned();
            assert_eq!(digest(&blob), format!("sha256:{name}"), "a published blob is whole");
            format!("sha256:{name}")
        })
        .collect();
    layers.sort();
    layers
}

/// What killed processes left in a store.
#[must_use]
pub fn leftovers(store: &Path) -> Vec<PathBuf> {
    ["tmp", "leases", "locks"].iter().flat_map(|name| below(&store.join(name))).collect()
}

/// The entries of a directory; none where it is missing.
fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry of the store").path()).collect()
}
