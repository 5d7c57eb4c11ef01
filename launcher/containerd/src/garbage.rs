//! Frees what removed snapshots needed of the store, once nothing else needs it.
//!
//! Snapshots are removed by containerd, which says when it is done. But other processes may use their layers for longer: the
//! server of a view that an overlay is still mounted on, or a mount of `lamina`. So the bases that are in use when garbage is
//! collected are remembered, and when one of them no longer is, garbage is collected again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use layer_store::{BaseId, Store};

use crate::error::Error;
use crate::store::StoreOptions;

/// What is known about the garbage of a store.
#[derive(Debug)]
pub(crate) struct Garbage {
    /// Whether something may have become garbage since the last collection.
    is_expected: AtomicBool,
    /// Bases that a process used at the last collection although no snapshot was mounted from them. The lock is held while
    /// garbage is collected.
    lingering: Mutex<BTreeSet<BaseId>>,
}

impl Garbage {
    /// What is known at the start: what a killed process has removed may not have been collected.
    pub(crate) fn expected() -> Self {
        Self { is_expected: AtomicBool::new(true), lingering: Mutex::default() }
    }

    /// Records that something may have become garbage.
    pub(crate) fn expect(&self) {
        self.is_expected.store(true, Ordering::Relaxed);
    }

    /// Collects garbage if there may be some. `prepare` is called before that, and `is_mounted` says whether a snapshot is
    /// mounted from the view of a base.
    pub(crate) fn collect(
        &self,
        store: &StoreOptions,
        prepare: impl FnOnce(&Store) -> Result<(), Error>,
        is_mounted: impl Fn(&BaseId) -> bool,
    ) -> Result<(), Error> {
        let mut lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_expected.load(Ordering::Relaxed) && lingering.is_empty() {
            return Ok(());
        }
        let store = store.open()?;
        // A removal that comes after this is seen by the next call.
        if !self.is_expected.swap(false, Ordering::Relaxed) && lingering.is_subset(&store.bases().in_use()?) {
            return Ok(());
        }
        let freed = prepare(&store).and_then(|()| {
            // Before the collection: a process may end at any time.
            *lingering = store.bases().in_use()?;
            lingering.retain(|base| !is_mounted(base));
            Ok(store.collect(false)?.bytes)
        });
        match freed {
            Ok(bytes) => {
                tracing::info!("freed {bytes} bytes of the store");
                Ok(())
            }
            Err(error) => {
                self.expect();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use layer_store::{ExpectedLayer, Silent};

    use super::*;

    #[test]
    fn garbage_is_collected_again_when_a_base_that_was_in_use_no_longer_is() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::at(&directory.path().join("store"));
        let view_of = |tar: &[u8]| {
            let store = options.open().unwrap();
            let layer = store.layers().ingest(&mut &*tar, &ExpectedLayer::default()).unwrap().diff_id;
            let base = store.bases().prepare_layers(&[layer], &[], &Silent).unwrap();
            (base, store.bases().open(&base).unwrap())
        };
        let (garbage, collections) = (Garbage::expected(), AtomicBool::new(false));
        let collects = |mounted: Option<BaseId>| {
            let prepare = |_: &Store| {
                collections.store(true, Ordering::Relaxed);
                Ok(())
            };
            garbage.collect(&options, prepare, |base| Some(*base) == mounted).unwrap();
            collections.swap(false, Ordering::Relaxed)
        };
        let layers = || options.open().unwrap().layers().list().unwrap().len();
        let [(first, first_view), (_, second_view)] = [view_of(&[0; 1024]), view_of(&[0; 10240])];
        assert!(collects(Some(first)) && !collects(Some(first)));
        assert_eq!(layers(), 2);
        drop(second_view);
        assert!(collects(Some(first)) && !collects(Some(first)));
        assert_eq!(layers(), 1);
        // What a snapshot is mounted from is removed by containerd, which says so.
        drop(first_view);
        assert!(!collects(None));
        garbage.expect();
        assert!(collects(None));
        assert_eq!(layers(), 0);
    }

    #[test]
    fn a_collection_that_fails_is_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::at(&directory.path().join("store"));
        let garbage = Garbage::expected();
        let refuse = |_: &Store| Err(Error::Invalid("no".into()));
        garbage.collect(&options, refuse, |_| false).unwrap_err();
        garbage.collect(&options, refuse, |_| false).unwrap_err();
        garbage.collect(&options, |_| Ok(()), |_| false).unwrap();
        garbage.collect(&options, refuse, |_| false).unwrap();
    }
}
