//! What a machine is asked to be: all that is needed to start it, now or again.

pub(crate) mod command;
pub(crate) mod ready;
pub(crate) mod secret;
pub(crate) mod share;
pub(crate) mod text_file;
pub(crate) mod variant;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_protocol::Process;
use layer_store::{BaseId, DiffId, Digest, Store, View};
use serde::{Deserialize, Serialize};

use crate::engine::policy::Request;
use crate::failure::{About, Failure};
use crate::host::json_file;
use crate::host::network::Publish;
use crate::meter::Told;
use crate::spec::ready::Ready;
use crate::spec::secret::Secret;
use crate::spec::share::Share;

/// The file's name in the machine's directory.
pub(crate) const FILE: &str = "spec.json";

/// `spec.json`: what a machine was asked to be. It holds the command's environment, and so is for its owner's eyes
/// only (mode 0600, in a directory of mode 0700); a machine that goes with its end has none on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The machine's name.
    pub(crate) name: String,
    /// What it runs on.
    pub(crate) root: Root,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Where writes to the root go.
    pub(crate) writes: Writes,
    /// The further shares; host paths are absolute.
    pub(crate) shares: Vec<Share>,
    /// Ports of the host that lead to the guest.
    pub(crate) published: Vec<Publish>,
    /// What is to be in `/run/secrets`: the files' absolute paths, never their content.
    pub(crate) secrets: Vec<Secret>,
    /// The command.
    pub(crate) process: Process,
    /// How it is to be carried.
    pub(crate) request: Request,
    /// The guest's kernel, or the newest there is.
    pub(crate) kernel: Option<PathBuf>,
    /// Whether the kernel's console is shown.
    pub(crate) show_console: bool,
    /// When it counts as ready.
    pub(crate) ready: Ready,
    /// How many seconds the guest may take to get ready.
    pub(crate) ready_timeout: u64,
    /// Where to answer `lamina stats`, besides the machine's own socket.
    pub(crate) stats: Option<PathBuf>,
}

/// The tree that a machine runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Root {
    /// Layers of a store.
    Image {
        /// The store.
        store: PathBuf,
        /// The stores whose layers are used in place.
        also_read: Vec<PathBuf>,
        /// The canonical name, as it was when the machine was made.
        reference: String,
        /// The digest of its manifest.
        manifest: Digest,
        /// Its layers, bottom first.
        layers: Vec<DiffId>,
        /// The layers on top of them.
        variant: Vec<DiffId>,
    },
    /// A directory of the host.
    Directory(PathBuf),
}

/// Where a guest's writes to its root go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Writes {
    /// To its memory, of which they may fill so many bytes (half of it by default).
    Memory {
        /// Bytes.
        limit: Option<u64>,
    },
    /// To a disk of its own, a sparse file in its directory: see [`crate::machine::kept_disk`].
    Disk {
        /// Bytes.
        size: u64,
    },
    /// Nowhere: the root is read-only.
    Nowhere,
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { limit: None } => f.write_str("to half of its memory"),
            Self::Memory { limit: Some(bytes) } => write!(f, "to {bytes} bytes of its memory"),
            Self::Disk { size } => write!(f, "to a disk of at most {size} bytes, where they stay"),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// A root that is open.
#[derive(Debug)]
pub(crate) enum Tree {
    /// A directory of the host.
    Directory(PathBuf),
    /// A base, kept from collection by its view's lease, and the store that it is in.
    View(Arc<View>, Box<Store>, BaseId),
}

impl Spec {
    /// Reads the spec in a machine's directory.
    ///
    /// # Errors
    /// It is not there, or of another version of this program.
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        json_file::read(&directory.join(FILE))
    }

    /// Writes it, for its owner's eyes only.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        json_file::write(&directory.join(FILE), self)
    }

    /// The spec with the names of its environment and not their values, which may be secret.
    #[must_use]
    pub(crate) fn without_secrets(mut self) -> Self {
        self.process.env.iter_mut().for_each(|(_, value)| *value = "…".to_owned());
        self
    }
}

/// Opens a store with those that are read also.
///
/// # Errors
/// One of them cannot be read.
pub(crate) fn open_store(root: &Path, also_read: &[PathBuf]) -> Result<Store, Failure> {
    Store::open(root).and_then(|store| store.with_additional(also_read)).about("store")
}

impl Root {
    /// What people call it.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Image { reference, .. } => reference.clone(),
            Self::Directory(path) => path.display().to_string(),
        }
    }

    /// Opens it; makes its base anew if that is not there.
    ///
    /// # Errors
    /// The store lacks a layer, or cannot be read.
    pub(crate) fn open(&self, name: &str) -> Result<Tree, Failure> {
        let (root, also_read, reference, layers, variant) = match self {
            Self::Directory(path) => return Ok(Tree::Directory(path.clone())),
            Self::Image { store, also_read, reference, layers, variant, .. } => {
                (store, also_read, reference, layers, variant)
            }
        };
        let store = open_store(root, also_read)?.with_purpose(&format!("machine {name}"));
        let base = store.bases().prepare_layers(layers, variant, &Told).about(reference)?;
        let view = Arc::new(store.bases().open(&base).about(reference)?);
        Ok(Tree::View(view, Box::new(store), base))
    }
}
