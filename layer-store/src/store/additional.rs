//! Additional stores: what is not in this store is found in them and used in place.
//!
//! That is true of a store that only this user and root can change. Any other store is only a source: see
//! `untrusted.rs`.
//!
//! An additional store is never written, except for leases where its owner allows them. This store is searched first
//! for names, layers, manifests and configs, then the additional stores in their order. Bases are made in this store,
//! and so is the index of a layer whose store has no index that this program can use: `indexes/<diffid>`.
//!
//! Each layer is opened in the store that has it, with its donors, because the same donor in another store may have its
//! holes elsewhere.
//!
//! If a collection in an additional store deletes a layer on which this process could take no lease, using that layer
//! is an error that names it; a pull brings it into this store.

use std::path::{Path, PathBuf};

use super::features::StoreFile;
use super::handle::Store;
use super::layers::Layers;
use super::layout::Layout;
use crate::DiffId;
use crate::error::StoreError;
use crate::lease::{Held, Lease};
use crate::regular;

impl Layers<'_> {
    /// Returns every layer of this store and of the additional stores that are used in place, in the order of their
    /// digests.
    pub fn list(&self) -> Result<Vec<DiffId>, StoreError> {
        let mut layers = Vec::new();
        for store in self.store.trusted() {
            layers.extend(store.stored_layers()?);
        }
        layers.sort();
        layers.dedup();
        Ok(layers)
    }

    /// Returns the directory of the store that has a layer, if any.
    #[must_use]
    pub fn store_of(&self, layer: &DiffId) -> Option<&Path> {
        self.store_in(layer).map(Store::root)
    }

    pub(super) fn store_in(&self, layer: &DiffId) -> Option<&Store> {
        let stores = self.store.trusted().chain(self.store.untrusted().map(|(_, store)| store));
        stores.into_iter().find(|store| store.has_own_layer(layer))
    }
}

impl Store {
    /// Returns the directories of the additional stores, in the order in which they are searched.
    #[must_use]
    pub fn additional_roots(&self) -> Vec<PathBuf> {
        self.additional.iter().map(|store| store.root().to_owned()).collect()
    }

    /// Returns the additional stores that `$LAMINA_ADDITIONAL_STORES` names, separated by colons. `$LAMINA_ALSO_READ`,
    /// the variable's old name, is read where the new one is not set.
    #[must_use]
    pub fn additional_roots_from_environment() -> Vec<PathBuf> {
        let set = ["LAMINA_ADDITIONAL_STORES", "LAMINA_ALSO_READ"].into_iter().find_map(std::env::var_os);
        let roots = set.unwrap_or_default();
        std::env::split_paths(&roots).filter(|root| !root.as_os_str().is_empty()).collect()
    }

    /// Adds the stores at `roots` as additional stores: what is not in this store is looked for in them, in this order.
    ///
    /// A store that somebody other than this user and root can change is not used in place: what is needed of it is
    /// copied into this store and verified on the way.
    ///
    /// Fails if one of them does not exist or cannot be read by this program. This store itself is left out.
    pub fn with_additional(mut self, roots: &[PathBuf]) -> Result<Self, StoreError> {
        for root in roots {
            let is_this = |store: &Self| is_same_directory(store.root(), root);
            if !is_this(&self) && !self.additional.iter().any(is_this) {
                self.additional.push(Self::open_other(root)?.with_purpose(&self.purpose));
            }
        }
        Ok(self)
    }

    /// Opens an existing store. Never creates one.
    fn open_other(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        match StoreFile::read(&layout) {
            Err(StoreError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::NoStore(root.to_owned()))
            }
            file => {
                let store = Self::of(layout, &file?)?;
                let is_source = !store.is_closed_to_others();
                Ok(Self { is_source, ..store })
            }
        }
    }

    /// Whether only this user and root can change what is in the store.
    fn is_closed_to_others(&self) -> bool {
        let directories = ["", "images", "manifests", "manifests/sha256", "layers", "layers/sha256"];
        let found = directories.into_iter().map(|directory| std::fs::metadata(self.layout.join(directory)));
        found.flatten().all(|found| regular::is_safe(&found))
    }

    /// Returns this store, then the additional ones.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.additional)
    }

    /// Returns this store, then the additional ones that are used in place.
    pub(super) fn trusted(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.additional.iter().filter(|store| !store.is_source))
    }

    /// Returns the store that has a layer, or this one if no store has it. A store that is only a source does not count.
    pub(super) fn home(&self, layer: &DiffId) -> &Self {
        self.trusted().find(|store| store.has_own_layer(layer)).unwrap_or(self)
    }

    pub(super) fn has_own_layer(&self, layer: &DiffId) -> bool {
        self.layout.tar(layer).is_some()
    }

    /// Holds the layers that are in this store, and returns the others.
    pub(super) fn hold_own<'layers>(
        &self,
        layers: impl IntoIterator<Item = &'layers DiffId>,
        with: &[Held],
    ) -> Result<Vec<&'layers DiffId>, StoreError> {
        let (own, mut missing) = self.holding(|| {
            let (own, missing): (Vec<&DiffId>, Vec<&DiffId>) =
                layers.into_iter().partition(|layer| self.has_own_layer(layer));
            let held = own.iter().map(|layer| Held::Layer(**layer)).chain(with.iter().copied()).collect();
            Ok(((own, missing), held))
        })?;
        // Without the store's lock, a collection may have run before the lease had these layers.
        missing.extend(own.into_iter().filter(|layer| !self.has_own_layer(layer)));
        Ok(missing)
    }

    /// Holds each of these layers in the store that has it, and `with` in this store. Returns the layers that no store
    /// has.
    pub(super) fn hold_where_they_are<'layers>(
        &self,
        layers: impl IntoIterator<Item = &'layers DiffId>,
        with: &[Held],
    ) -> Result<Vec<&'layers DiffId>, StoreError> {
        let mut missing = self.hold_own(layers, with)?;
        for other in self.trusted().skip(1) {
            if missing.is_empty() {
                break;
            }
            missing = other.hold_own(missing, &[])?;
        }
        Ok(missing)
    }

    /// Takes leases for what a view uses, in every store that has a part of it and allows leases.
    pub(super) fn leases_of_view(&self, held: &[Held]) -> Result<Vec<Lease>, StoreError> {
        let mut leases = Vec::new();
        for store in self.trusted() {
            let is_here = |thing: &Held| matches!(thing, Held::Layer(layer) if store.has_own_layer(layer));
            if std::ptr::eq(store, self) || held.iter().any(is_here) {
                leases.extend(store.new_lease(held)?.ok());
            }
        }
        Ok(leases)
    }
}

fn is_same_directory(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}
