//! Additional stores that somebody other than this user and root can change.
//!
//! Nothing in such a store can be used in place: its owner may change a file after it was verified, or cut it off while it
//! is mapped. So it is a source like a registry. A layer is copied into this store when it is needed, and its digest is
//! computed from the copy; the index is built from the copy too. Manifests and configs are read whole and verified by their
//! digests. A name is what that store says it is, but a name with a digest must lead to a manifest with that digest, or to one
//! that the index with that digest lists.

use std::io::{self, Read};
use std::sync::PoisonError;

use super::handle::Store;
use crate::error::StoreError;
use crate::lock::FileLock;
use crate::observer::Observer;
use crate::{DiffId, IngestError};

impl Store {
    /// Returns the additional stores that are only sources, with their places among the additional stores.
    pub(super) fn untrusted(&self) -> impl Iterator<Item = (usize, &Self)> {
        self.additional.iter().enumerate().filter(|(_, store)| store.is_source)
    }

    /// Copies a layer that this store needs from a store that is only a source, and holds it. Another process may be
    /// copying it: this waits for it.
    pub(super) fn take_over(&self, layer: &DiffId, observer: &dyn Observer) -> Result<(), StoreError> {
        if self.untrusted().next().is_none() {
            return Err(StoreError::NoSuchLayer(*layer));
        }
        let claim = self.layers().lock(layer, &layer.to_string(), observer)?;
        let taken = self.take_over_claimed(layer, observer);
        drop(claim);
        taken
    }

    /// Does the same, but fails if another process, or the caller, is adding the layer.
    pub(super) fn try_take_over(&self, layer: &DiffId, observer: &dyn Observer) -> Result<(), StoreError> {
        let is_there = self.untrusted().any(|(_, store)| store.has_own_layer(layer));
        let claim = if is_there { FileLock::try_take(&self.layout.layer_lock(layer))? } else { None };
        match claim {
            Some(_claim) => self.take_over_claimed(layer, observer),
            None => Err(StoreError::NoSuchLayer(*layer)),
        }
    }

    fn take_over_claimed(&self, layer: &DiffId, observer: &dyn Observer) -> Result<(), StoreError> {
        if self.hold_own([layer], &[])?.is_empty() {
            return Ok(());
        }
        let mut failed = StoreError::NoSuchLayer(*layer);
        for (place, store) in self.untrusted().filter(|(_, store)| store.has_own_layer(layer)) {
            if self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&(place, *layer)) {
                continue;
            }
            let (root, owner) = (store.root().display(), store.owner_name());
            observer.notice(&format!("copying layer {layer} from {root}, which {owner} can change"));
            match self.copy_layer(store, layer, observer) {
                Ok(()) => return Ok(()),
                Err(error) if self.is_own_failure(&error) => return Err(error),
                Err(error) => {
                    self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert((place, *layer));
                    let cause = match error {
                        StoreError::DamagedLayer { cause, .. } => cause,
                        other => other.to_string(),
                    };
                    let error = StoreError::Untrusted { layer: *layer, store: store.root().to_owned(), cause };
                    tracing::info!("{error}");
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    /// Whether an error is one of this store, or a cancellation, and not one of the source.
    fn is_own_failure(&self, error: &StoreError) -> bool {
        match error {
            StoreError::Io { path, .. } | StoreError::NoSpace { path, .. } => path.starts_with(self.root()),
            StoreError::Cancelled | StoreError::Interrupted(_) | StoreError::Closed { .. } => true,
            _ => false,
        }
    }
}

/// Reads a layer, tells an observer how much was read, and ends when the observer cancels.
pub(super) struct Watched<'a, R> {
    pub(super) source: R,
    pub(super) observer: &'a dyn Observer,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.observer.cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let filled = self.source.read(buffer)?;
        self.observer.progress(filled as u64);
        Ok(filled)
    }
}

/// Makes the error for a layer that could not be read or does not have its digest.
pub(super) fn not_copied(layer: &DiffId, error: IngestError, observer: &dyn Observer) -> StoreError {
    match error {
        _ if observer.cancelled() => StoreError::Cancelled,
        IngestError::Store(error) => error,
        error => StoreError::DamagedLayer { layer: *layer, cause: error.to_string() },
    }
}
