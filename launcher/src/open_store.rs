//! Opening a store with its additional stores.

use std::path::{Path, PathBuf};

use layer_store::Store;

use crate::failure::{About, Failure};

/// Opens the store in `root`, and those in `also_read` as its additional stores.
///
/// # Errors
/// One of them cannot be read.
pub(crate) fn open_store(root: &Path, also_read: &[PathBuf]) -> Result<Store, Failure> {
    Store::open(root).and_then(|store| store.with_additional(also_read)).about("store")
}
