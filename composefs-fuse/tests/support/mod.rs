//! Trees for tests: a layer is written as a tar, stored in its own store, prepared and opened.

#![allow(dead_code, unused_imports, reason = "no test uses all of it")]

use layer_store::{BaseId, ExpectedLayer, Silent, Store, View};
use tempfile::TempDir;
pub(crate) use test_support::tar_builder::{MTIME, TarBuilder as Layer};

/// A layer as a store shows it.
pub(crate) trait Stored {
    /// The base of this one layer, and the store that it is in.
    fn into_base(self) -> (BaseId, Store, TempDir);

    /// The opened base.
    fn into_view(self) -> (View, TempDir);
}

impl Stored for Layer {
    fn into_base(self) -> (BaseId, Store, TempDir) {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let tar = self.into_tar();
        let layer = store.layers().ingest(&mut tar.as_slice(), &ExpectedLayer::default()).unwrap();
        let base = store.bases().prepare_layers(&[layer.diff_id], &[], &Silent).unwrap();
        (base, store, directory)
    }

    fn into_view(self) -> (View, TempDir) {
        let (base, store, directory) = self.into_base();
        (store.bases().open(&base).unwrap(), directory)
    }
}
