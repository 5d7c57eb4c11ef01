//! What is true of every store at every moment, whichever process was killed while it wrote.

use std::path::{Path, PathBuf};

use crate::layout::digest;

/// The DiffIDs of the layers of a store, each checked against its blob.
///
/// # Panics
/// When a layer has no blob, or its blob does not match its name.
#[must_use]
pub fn sound_layers(store: &Path) -> Vec<String> {
    let mut layers: Vec<String> = below(&store.join("layers/sha256"))
        .into_iter()
        // A layer that is gone may leave content that others borrow.
        .filter(|layer| !layer.join("rest").exists() || layer.join("blob").exists() || layer.join("thin").exists())
        .map(|layer| {
            let blob = tar_of(&layer);
            let name = layer.file_name().expect("a layer has a name").to_string_lossy().into_owned();
            assert_eq!(digest(&blob), format!("sha256:{name}"), "a published blob is whole");
            format!("sha256:{name}")
        })
        .collect();
    layers.sort();
    layers
}

/// The tar of a layer, from its own file or, as its sharing map says (`layer-store/src/sharing/map.rs`), from other
/// layers' files.
fn tar_of(layer: &Path) -> Vec<u8> {
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if layer.join("blob").exists() {
        return read(layer.join("blob"));
    }
    let own = read(layer.join("thin"));
    let map = read(layer.join("shared"));
    let number = |at: usize| {
        let bytes = map[at..at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(bytes)).expect("a length")
    };
    // Offset and length of each section follow the 32 bytes of the frame's header.
    let section = |number_of: usize| (number(32 + 16 * number_of), number(40 + 16 * number_of));
    let (donors, donor_bytes) = section(1);
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let layers = layer.parent().expect("the directory of layers");
    let tars: Vec<Vec<u8>> = map[donors..donors + donor_bytes]
        .chunks(32)
        .map(|donor| {
            let donor = layers.join(hex(donor));
            let file = ["blob", "rest", "thin"].map(|name| donor.join(name)).into_iter().find(|path| path.exists());
            read(file.unwrap_or_else(|| panic!("{}: its donor {} is gone", layer.display(), donor.display())))
        })
        .collect();
    let mut tar = own.clone();
    let (runs, run_bytes) = section(2);
    for run in (runs..runs + run_bytes).step_by(32) {
        let [offset, length, from, donor] = [0, 8, 16, 24].map(|field| number(run + field));
        let source = if donor == 0 { &own } else { &tars[donor - 1] };
        tar[offset..offset + length].copy_from_slice(&source[from..from + length]);
    }
    tar
}

/// Returns what killed processes left in a store.
#[must_use]
pub fn leftovers(store: &Path) -> Vec<PathBuf> {
    ["tmp", "leases", "locks"].iter().flat_map(|name| below(&store.join(name))).collect()
}

/// The entries of a directory; none where it is missing.
fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry of the store").path()).collect()
}
