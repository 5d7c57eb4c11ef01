//! The store: one place where layers, indexes, bases and images are kept.

mod adopt;
mod bases;
mod block_image;
mod commit;
mod error;
mod features;
mod gc;
mod images;
mod layers;
mod layout;
mod limits;
mod lock;
mod others;
mod partials;
mod pins;
mod repair;
mod rest;
mod sharing;
mod sink;
#[cfg(target_os = "linux")]
mod tree;
mod usage;
mod verify;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

pub use bases::Bases;
pub use block_image::BlockImageError;
pub use commit::Provenance;
pub use error::StoreError;
pub(crate) use error::{available, is_out_of_space};
pub use gc::{Collected, Garbage, GarbageKind};
pub use images::{Image, ImageSummary, Images};
pub use layers::{LayerLock, Layers};
pub use limits::Limits;
pub(crate) use lock::FileLock;
pub use pins::Pins;
pub use repair::RepairError;
pub(crate) use sharing::NewLayer;
#[cfg(target_os = "linux")]
pub use tree::TreeError;
pub use usage::{ImageUsage, LayerUsage, Usage};
pub use verify::Damage;

use crate::durable;
use crate::fault::{self, FaultPoint};
use crate::lease::{Held, Lease};
use crate::observer::Silent;
use crate::user_dirs;
use features::StoreFile;
use layout::{DIRECTORIES, Layout};

/// A store, opened by this process.
///
/// Everything that a `Store` brings in or looks up stays until the `Store` is dropped, whoever collects garbage
/// meanwhile. All methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    limits: Limits,
    purpose: String,
    /// Features of the store that this program does not know, and for whose sake it must not change it.
    closed: Option<String>,
    /// Stores in which what is not here is looked for.
    others: Vec<Store>,
    /// Taken when the first thing is used; the error where this process may not write the store.
    lease: OnceLock<Result<Lease, io::ErrorKind>>,
    /// Whether content that other layers have is left out of those that come in.
    shares_files: bool,
    /// Held while a layer gets its place, so that of two that this process brings in the later sees the other.
    placing: Mutex<()>,
}

impl Store {
    /// `$LAMINA_STORE`, else `$XDG_DATA_HOME/lamina`, else `~/.local/share/lamina`.
    #[must_use]
    pub fn default_root() -> PathBuf {
        let named = std::env::var_os("LAMINA_STORE").filter(|value| !value.is_empty()).map(PathBuf::from);
        named.or_else(user_dirs::data).unwrap_or_else(|| PathBuf::from("/var/lib/lamina"))
    }

    /// Opens the store at `root`, and makes one where there is none.
    ///
    /// Fails where the directory cannot be made or read, or where it holds a store of a newer format, or with features
    /// that this program must know to read it.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        let file = StoreFile::read_or_make(&layout)?;
        Self::of(layout, &file)
    }

    /// Opens the store at `root`. Makes none: for commands that only read.
    pub fn open_existing(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        // A store that has lost its `store.json` is one all the same.
        if layout.join("store.json").exists() || layout.layers().is_dir() {
            return Self::open(root);
        }
        Err(StoreError::NoStoreYet(root.to_owned()))
    }

    fn of(layout: Layout, file: &StoreFile) -> Result<Self, StoreError> {
        let closed = file.check(&layout)?;
        Ok(Self {
            layout,
            limits: Limits::default(),
            purpose: "a command".into(),
            closed,
            others: Vec::new(),
            lease: OnceLock::new(),
            shares_files: true,
            placing: Mutex::new(()),
        })
    }

    /// The same store with other limits for layers that come in.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same store, which keeps layers that come in whole (`false`), or leaves out what others have (`true`, as from
    /// the start).
    #[must_use]
    pub fn with_file_sharing(self, shares_files: bool) -> Self {
        Self { shares_files, ..self }
    }

    /// The same store for a purpose that `lamina gc --explain` tells people: one line.
    #[must_use]
    pub fn with_purpose(self, purpose: &str) -> Self {
        let others = self.others.into_iter().map(|other| other.with_purpose(purpose)).collect();
        Self { purpose: purpose.replace('\n', " "), others, ..self }
    }

    /// The directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// The lease of this `Store`, or why there can be none: who may only read goes on without.
    fn lease(&self) -> Result<&Result<Lease, io::ErrorKind>, StoreError> {
        if let Some(lease) = self.lease.get() {
            return Ok(lease);
        }
        let lease = self.new_lease(&[])?;
        Ok(self.lease.get_or_init(|| lease))
    }

    /// A new lease that holds `things`. On a read-only file system nobody can collect anything; in somebody else's store a collection may
    /// come between finding a layer and opening it, which then is an error, but what is open stays readable.
    fn new_lease(&self, things: &[Held]) -> Result<Result<Lease, io::ErrorKind>, StoreError> {
        let _shared = lock::shared(&self.layout.join("lock"))?;
        match Lease::take(&self.layout.join("leases"), &self.layout.join("tmp"), &self.purpose) {
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

    /// Refuses where a feature of the store says that a program that does not know it must not change anything.
    fn may_change(&self) -> Result<(), StoreError> {
        match &self.closed {
            Some(features) => Err(StoreError::Closed { path: self.root().to_owned(), features: features.clone() }),
            None => Ok(()),
        }
    }

    /// A directory to make things in, which no collection takes while this `Store` lives.
    fn staging(&self) -> Result<tempfile::TempDir, StoreError> {
        self.may_change()?;
        match self.lease()? {
            Ok(lease) => lease.staging(),
            Err(kind) => Err(StoreError::io(self.root())((*kind).into())),
        }
    }

    /// Runs `step`, which makes or finds things, and holds those it names, so that no collection comes between.
    fn holding<T>(&self, step: impl FnOnce() -> Result<(T, Vec<Held>), StoreError>) -> Result<T, StoreError> {
        let lease = self.lease()?;
        let _shared = lock::shared(&self.layout.join("lock"))?;
        let (outcome, things) = step()?;
        if let Ok(lease) = lease {
            lease.hold(&things)?;
        }
        Ok(outcome)
    }
}

/// Whether an error says that this process may not write, whatever it writes.
fn is_closed(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn make(layout: &Layout) -> Result<(), StoreError> {
    let new: Vec<PathBuf> = layout.root().ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    for directory in DIRECTORIES {
        let path = layout.join(directory);
        fs::create_dir_all(&path).map_err(StoreError::io(&path))?;
    }
    // Of those who make it the first does, whose `store.json` may soon say more than that of a new store.
    let _one_at_a_time = FileLock::wait(&layout.lock("features"), &Silent, "writes store.json")?;
    if layout.join("store.json").exists() {
        return Ok(());
    }
    // A collection by a process that finds the store just made must not take what this one is making.
    let _shared = lock::shared(&layout.join("lock"))?;
    let staging = tempfile::Builder::new().prefix("new").tempdir_in(layout.join("tmp"));
    let staging = staging.map_err(StoreError::io(layout.root()))?;
    let written = staging.path().join("store.json");
    durable::write(&written, &StoreFile::new(layout)?.to_bytes())?;
    for directory in DIRECTORIES.iter().filter_map(|directory| Path::new(directory).parent()) {
        durable::sync_directory(&layout.root().join(directory))?;
    }
    fault::point(FaultPoint::StoreMade);
    durable::publish(&written, &layout.join("store.json"))?;
    fault::point(FaultPoint::StoreNamed);
    for parent in new.iter().filter_map(|path| path.parent()) {
        match durable::sync_directory(parent) {
            // A directory may let this process make something in it and not look.
            Err(error) if error.is_closed() => {}
            synced => synced?,
        }
    }
    Ok(())
}
