//! Which store is used, and how it is opened.

use std::ffi::OsString;
use std::path::PathBuf;

use layer_store::{Store, StoreError};

/// The options that name the store.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreOptions {
    /// The store of layers and images [default: $LAMINA_STORE, else $XDG_DATA_HOME/lamina, else /var/lib/lamina]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Also read layers from this store, in place, and never write to it (repeatable; also LAMINA_ADDITIONAL_STORES,
    /// separated by colons)
    #[arg(long = "additional-store", global = true, value_name = "DIR")]
    additional_stores: Vec<PathBuf>,
}

impl StoreOptions {
    /// Opens the store. A process that runs for long opens it for each call: what is looked up in an open store is kept
    /// until it is closed.
    pub(crate) fn open(&self) -> Result<Store, StoreError> {
        Store::open(&self.root())?.with_additional(&self.additional())
    }

    /// Returns the options for a store without additional ones.
    #[cfg(test)]
    pub(crate) fn at(root: &std::path::Path) -> Self {
        Self { store: Some(root.to_owned()), additional_stores: Vec::new() }
    }

    /// Returns options with absolute paths, which do not depend on the working directory and the environment.
    pub(crate) fn absolute(&self) -> std::io::Result<Self> {
        let additional = self.additional().into_iter().map(std::path::absolute).collect::<Result<_, _>>()?;
        Ok(Self { store: Some(std::path::absolute(self.root())?), additional_stores: additional })
    }

    /// Returns the arguments that name the same stores.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--store".into(), self.root().into_os_string()];
        for store in self.additional() {
            arguments.extend(["--additional-store".into(), store.into_os_string()]);
        }
        arguments
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(Store::default_root)
    }

    fn additional(&self) -> Vec<PathBuf> {
        let mut stores = self.additional_stores.clone();
        for store in Store::additional_roots_from_environment() {
            if !stores.contains(&store) {
                stores.push(store);
            }
        }
        stores
    }
}
