//! An entry point for fuzzing: the documents of a store's directory.

use serde::de::DeserializeOwned;

use super::bases::Recipe;
use super::features::StoreFile;
use super::image_file::ImageFile;
use super::pins::PinFile;
use crate::LayerSource;

/// Reads bytes as each document of a store.
pub(crate) fn documents(bytes: &[u8]) {
    let _ = parsed::<StoreFile>(bytes).map(|file| file.to_bytes());
    let _ = parsed::<Recipe>(bytes).map(|recipe| recipe.id());
    let _ = (parsed::<ImageFile>(bytes), parsed::<PinFile>(bytes), parsed::<Vec<LayerSource>>(bytes));
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
