//! The store: one place where layers, indexes, bases and images are kept.

mod bases;
mod error;
mod gc;
mod images;
mod layers;
mod layout;
mod limits;
mod lock;
mod pins;
mod repair;
mod sink;
mod usage;
mod verify;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

pub use error::StoreError;
pub use gc::{Collected, Garbage, GarbageKind};
pub use images::{Image, ImageSummary};
pub use layers::LayerLock;
pub use limits::Limits;
pub(crate) use lock::FileLock;
pub use repair::RepairError;
pub use usage::{ImageUsage, LayerUsage, Usage};
pub use verify::Damage;

use crate::durable;
use crate::fault::{self, FaultPoint};
use crate::lease::{Held, Lease};
use layout::{DIRECTORIES, Layout};

/// The newest format of a store that this program knows, and the one that it makes.
const FORMAT: u32 = 1;

/// `store.json`.
#[derive(Debug, Serialize, Deserialize)]
struct StoreFile {
    format: u32,
    /// Features that a program must know to read the store.
    #[serde(default)]
    incompatible: Vec<String>,
    /// Features that a program must know to write it.
    #[serde(default)]
    read_only_compatible: Vec<String>,
}

/// A store, opened by this process.
///
/// Everything that a `Store` brings in or looks up stays until the `Store` is dropped, whoever collects garbage
/// meanwhile. All methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    limits: Limits,
    purpose: String,
    /// Taken when the first thing is used; the error where this process may not write the store.
    lease: OnceLock<Result<Lease, io::ErrorKind>>,
}

impl Store {
    /// `$LAMINA_STORE`, else `$XDG_DATA_HOME/lamina`, else `~/.local/share/lamina`.
    #[must_use]
    pub fn default_root() -> PathBuf {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("LAMINA_STORE")
            .or_else(|| set("XDG_DATA_HOME").map(|path| path.join("lamina")))
            .or_else(|| set("HOME").map(|path| path.join(".local/share/lamina")))
            .unwrap_or_else(|| PathBuf::from("/var/lib/lamina"))
    }

    /// Opens the store at `root`, and makes one where there is none.
    ///
    /// Fails where the directory cannot be made or read, or where it holds a store of a newer format.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        let described = layout.join("store.json");
        if !described.exists() {
            make(&layout)?;
        }
        let text = fs::read(&described).map_err(StoreError::io(&described))?;
        let file: StoreFile = serde_json::from_slice(&text)
            .map_err(|error| StoreError::Document { path: described, cause: error.to_string() })?;
        if file.format > FORMAT {
            return Err(StoreError::Format { path: root.to_owned(), found: file.format, known: FORMAT });
        }
        if let Some(feature) = file.incompatible.into_iter().chain(file.read_only_compatible).next() {
            return Err(StoreError::Feature { path: root.to_owned(), feature });
        }
        Ok(Self { layout, limits: Limits::default(), purpose: "a command".into(), lease: OnceLock::new() })
    }

    /// The same store with other limits for layers that come in.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same store for a purpose that `lamina gc --explain` tells people: one line.
    #[must_use]
    pub fn with_purpose(self, purpose: &str) -> Self {
        Self { purpose: purpose.replace('\n', " "), ..self }
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
        let lease = self.new_lease()?;
        Ok(self.lease.get_or_init(|| lease))
    }

    /// A new lease. On a read-only file system nobody can collect anything; in somebody else's store a collection may
    /// come between finding a layer and opening it, which then is an error, but what is open stays readable.
    fn new_lease(&self) -> Result<Result<Lease, io::ErrorKind>, StoreError> {
        let _shared = lock::shared(&self.layout.join("lock"))?;
        match Lease::take(&self.layout.join("leases"), &self.layout.join("tmp"), &self.purpose) {
            Ok(lease) => Ok(Ok(lease)),
            Err(StoreError::Io { cause, .. }) if is_closed(cause.kind()) => {
                tracing::info!("{}: reading without a lease: {cause}", self.root().display());
                Ok(Err(cause.kind()))
            }
            Err(error) => Err(error),
        }
    }

    /// A directory to make things in, which no collection takes while this `Store` lives.
    fn staging(&self) -> Result<tempfile::TempDir, StoreError> {
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
    for directory in DIRECTORIES {
        let path = layout.join(directory);
        fs::create_dir_all(&path).map_err(StoreError::io(&path))?;
    }
    // A collection by a process that finds the store just made must not take what this one is making.
    let _shared = lock::shared(&layout.join("lock"))?;
    let file = StoreFile { format: FORMAT, incompatible: Vec::new(), read_only_compatible: Vec::new() };
    let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
    let staging = tempfile::Builder::new().prefix("new").tempdir_in(layout.join("tmp"));
    let staging = staging.map_err(StoreError::io(layout.root()))?;
    let written = staging.path().join("store.json");
    durable::write(&written, &text)?;
    fault::point(FaultPoint::StoreMade);
    durable::publish(&written, &layout.join("store.json"))
}
