//! An open store, the state that every operation on it uses.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use super::features::StoreFile;
use super::layout::Layout;
use crate::error::{StoreError, is_closed};
use crate::lease::{Held, Lease};
use crate::lock;
use crate::observer::Logged;
use crate::user_dirs;
use crate::{DiffId, Limits};

/// A store, opened by this process.
///
/// Everything that is added or looked up through a `Store` is kept until the `Store` is dropped, even if garbage is
/// collected in the meantime. All methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    pub(super) layout: Layout,
    pub(super) limits: Limits,
    pub(super) purpose: String,
    /// Features of the store that this program does not know: it must not change the store then.
    pub(super) closed: Option<String>,
    /// The user whose store it is.
    pub(super) owner: u32,
    /// Whether it is an additional store that others can change: nothing in it is used in place.
    pub(super) is_source: bool,
    /// The additional stores, trusted or not.
    pub(super) additional: Vec<Store>,
    /// Layers that an additional store has, but not with the digest of their name.
    pub(super) refused: Mutex<BTreeSet<(usize, DiffId)>>,
    /// Taken when the first thing is used; an error if this process may not write the store.
    pub(super) lease: OnceLock<Result<Lease, io::ErrorKind>>,
    /// Whether new layers leave out content that other layers have.
    pub(super) shares_files: bool,
    /// Held while a layer is moved to its place, so that the later of two new layers sees the earlier one.
    ///
    /// A lock of the standard library: it is taken once for each new layer, so a faster one such as that of
    /// `parking_lot` would save nothing.
    pub(super) placing: Mutex<()>,
}

impl Store {
    pub(super) fn of(layout: Layout, file: &StoreFile) -> Result<Self, StoreError> {
        let closed = file.check(&layout)?;
        let found = fs::metadata(layout.root()).map_err(StoreError::io(layout.root()))?;
        Ok(Self {
            owner: found.uid(),
            is_source: false,
            refused: Mutex::default(),
            layout,
            limits: Limits::default(),
            purpose: "a command".into(),
            closed,
            additional: Vec::new(),
            lease: OnceLock::new(),
            shares_files: true,
            placing: Mutex::new(()),
        })
    }

    /// Sets the limits for new layers.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets whether new layers leave out content that other layers have (the default), or are stored whole.
    #[must_use]
    pub fn with_file_sharing(self, shares_files: bool) -> Self {
        Self { shares_files, ..self }
    }

    /// Sets the purpose of its leases: one line, which is shown to users.
    #[must_use]
    pub fn with_purpose(self, purpose: &str) -> Self {
        let additional = self.additional.into_iter().map(|store| store.with_purpose(purpose)).collect();
        Self { purpose: purpose.replace('\n', " "), additional, ..self }
    }

    /// Returns the directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Returns the lease of this `Store`, or why it cannot have one: a process that may only read continues without it.
    fn lease(&self) -> Result<&Result<Lease, io::ErrorKind>, StoreError> {
        if let Some(lease) = self.lease.get() {
            return Ok(lease);
        }
        let lease = self.new_lease(&[])?;
        Ok(self.lease.get_or_init(|| lease))
    }

    /// Takes a new lease that holds `things`, if this process may write the store. On a read-only file system it needs
    /// none, because no process can collect anything there. In a store of another user, a collection may run between
    /// finding a layer and opening it, which is then an error, but what is open stays readable.
    ///
    /// A reader of another user's store cannot open the store's lock, so its lease may come too late for a collection
    /// that already runs.
    pub(super) fn new_lease(&self, things: &[Held]) -> Result<Result<Lease, io::ErrorKind>, StoreError> {
        let _shared = self.shared_lock()?;
        match Lease::take(&self.layout.join("leases"), &self.layout.join("tmp"), &self.purpose, self.owner) {
            Ok(lease) => {
                lease.hold(things)?;
                Ok(Ok(lease))
            }
            Err(StoreError::Io { cause, .. }) if is_closed(cause.kind()) => {
                tracing::info!("{}: reading without a lease: {cause}", self.root().display());
                Ok(Err(cause.kind()))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the store's lock shared, or returns `None` in a store of another user.
    fn shared_lock(&self) -> Result<Option<fs::File>, StoreError> {
        lock::shared(&self.layout.join("lock"), &Logged)
    }

    /// Takes the store's lock exclusively, or returns `None` in a store of another user.
    pub(super) fn exclusive_lock(&self) -> Result<Option<fs::File>, StoreError> {
        lock::exclusive(&self.layout.join("lock"), &Logged)
    }

    /// Names the user whose store it is.
    pub(super) fn owner_name(&self) -> String {
        user_dirs::user_name(self.owner)
    }

    /// Fails if the store has a feature that this program must know to change it.
    pub(super) fn may_change(&self) -> Result<(), StoreError> {
        match &self.closed {
            Some(features) => Err(StoreError::Closed { path: self.root().to_owned(), features: features.clone() }),
            None => Ok(()),
        }
    }

    /// Creates a directory to make things in. No collection removes it while this `Store` lives.
    pub(crate) fn staging(&self) -> Result<tempfile::TempDir, StoreError> {
        self.may_change()?;
        match self.lease()? {
            Ok(lease) => lease.staging(),
            Err(kind) => Err(StoreError::io(self.root())((*kind).into())),
        }
    }

    /// Runs `step`, which makes or finds things, and holds the things that it returns, so that no collection runs in
    /// between.
    pub(super) fn holding<T>(
        &self,
        step: impl FnOnce() -> Result<(T, Vec<Held>), StoreError>,
    ) -> Result<T, StoreError> {
        let lease = self.lease()?;
        let _shared = self.shared_lock()?;
        let (outcome, things) = step()?;
        if let Ok(lease) = lease {
            lease.hold(&things)?;
        }
        Ok(outcome)
    }
}
