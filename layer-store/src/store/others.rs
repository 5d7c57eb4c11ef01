//! Other stores, in which what is not in this one is found and used in place.
//!
//! A store that is also read is never written, but for leases where its owner allows that. Names, layers and documents of
//! one's own store come first, then those of the others in their order. Bases are made in one's own store, and so is
//! the index of a layer whose own store has none that this program can use: `indexes/<diffid>`.
//!
//! Each layer is opened in the store that has it, with its donors: the same donor in another store may have its holes
//! elsewhere.
//!
//! What a collection in another store takes away, because nobody there needs it and no lease could be had, is an
//! error that names the layer: a pull brings it into one's own store.

use std::path::{Path, PathBuf};

use super::Store;
use super::error::StoreError;
use super::features::StoreFile;
use super::layers::Layers;
use super::layout::Layout;
use crate::DiffId;
use crate::lease::{Held, Lease};

impl Layers<'_> {
    /// Every layer of this store and of those that are read also, in the order of their digests.
    pub fn list(&self) -> Result<Vec<DiffId>, StoreError> {
        let mut layers = Vec::new();
        for store in self.store.each() {
            layers.extend(store.stored_layers()?);
        }
        layers.sort();
        layers.dedup();
        Ok(layers)
    }

    /// The directory of the store that has a layer, if one has it.
    #[must_use]
    pub fn store_of(&self, layer: &DiffId) -> Option<&Path> {
        let home = self.store.home(layer);
        home.has_own_layer(layer).then(|| home.root())
    }
}

impl Store {
    /// The directories of the stores that this one reads also, in the order in which they are asked.
    #[must_use]
    pub fn additional_roots(&self) -> Vec<PathBuf> {
        self.others.iter().map(|store| store.root().to_owned()).collect()
    }

    /// Returns the additional stores that `$LAMINA_ADDITIONAL_STORES` names, separated by colons. `$LAMINA_ALSO_READ`, the
    /// variable's old name, is read where the new one is not set.
    #[must_use]
    pub fn additional_roots_from_environment() -> Vec<PathBuf> {
        let set = ["LAMINA_ADDITIONAL_STORES", "LAMINA_ALSO_READ"].into_iter().find_map(std::env::var_os);
        let roots = set.unwrap_or_default();
        std::env::split_paths(&roots).filter(|root| !root.as_os_str().is_empty()).collect()
    }

    /// The same store, with what is not in it looked for in the stores at `roots`, in this order.
    ///
    /// Fails where there is no store, or one that this program cannot read. This store itself is no other one.
    pub fn with_additional(mut self, roots: &[PathBuf]) -> Result<Self, StoreError> {
        for root in roots {
            let is_this = |store: &Self| is_same_directory(store.root(), root);
            if !is_this(&self) && !self.others.iter().any(is_this) {
                self.others.push(Self::open_other(root)?.with_purpose(&self.purpose));
            }
        }
        Ok(self)
    }

    /// Opens a store that is there; makes none.
    fn open_other(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        match StoreFile::read(&layout) {
            Err(StoreError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::NoStore(root.to_owned()))
            }
            file => Self::of(layout, &file?),
        }
    }

    /// This store, then the others.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// The store that has a layer; this one where none has it.
    pub(super) fn home(&self, layer: &DiffId) -> &Self {
        self.each().find(|store| store.has_own_layer(layer)).unwrap_or(self)
    }

    pub(super) fn has_own_layer(&self, layer: &DiffId) -> bool {
        self.layout.tar(layer).is_some()
    }

    /// Holds those of these layers that are in this store, and gives the others.
    pub(super) fn hold_own<'layers>(
        &self,
        layers: impl IntoIterator<Item = &'layers DiffId>,
        with: &[Held],
    ) -> Result<Vec<&'layers DiffId>, StoreError> {
        self.holding(|| {
            let (own, missing): (Vec<_>, Vec<_>) = layers.into_iter().partition(|layer| self.has_own_layer(layer));
            let own = own.into_iter().copied().map(Held::Layer);
            Ok((missing, own.chain(with.iter().copied()).collect()))
        })
    }

    /// Holds each of these layers where it is, and `with` here. Gives those that no store has.
    pub(super) fn hold_where_they_are<'layers>(
        &self,
        layers: impl IntoIterator<Item = &'layers DiffId>,
        with: &[Held],
    ) -> Result<Vec<&'layers DiffId>, StoreError> {
        let mut missing = self.hold_own(layers, with)?;
        for other in &self.others {
            if missing.is_empty() {
                break;
            }
            missing = other.hold_own(missing, &[])?;
        }
        Ok(missing)
    }

    /// Leases for what a view uses, in every store that has some of it and where one can be had.
    pub(super) fn leases_of_view(&self, held: &[Held]) -> Result<Vec<Lease>, StoreError> {
        let mut leases = Vec::new();
        for store in self.each() {
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
