//! Errors of store operations.

use std::io;
use std::path::{Path, PathBuf};

use crate::space::{Shortage, is_out_of_space};
use crate::{BaseId, DiffId, Digest};

/// The name and version of this program in messages about newer stores.
const PROGRAM: &str = concat!("lamina ", env!("CARGO_PKG_VERSION"));

/// Why a store operation failed. Every message names the thing and the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The host refused an operation.
    #[error("{path}: {cause}{}", disk_failure(cause))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the host.
        #[source]
        cause: io::Error,
    },
    /// Something does not fit on the disk. The part that was written has been deleted.
    #[error("{path}: {cause}{shortage}; make space, or free some with `lamina rmi` and `lamina gc`")]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The error of the host.
        #[source]
        cause: io::Error,
        /// How much space is needed and free.
        shortage: Shortage,
    },
    /// The name of a new image has a digest.
    #[error("{0}: the digest of a new image is not known before it is made; give a name without a digest")]
    Promise(String),
    /// The store has a format that this program does not know.
    #[error("{path}: this store has format {found}, and {PROGRAM} knows formats up to {known}; use a newer lamina")]
    Format {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The store uses a feature that this program must know to read it.
    #[error("{path}: this store uses {features}, which {PROGRAM} does not know; use a newer lamina")]
    Feature {
        /// The store.
        path: PathBuf,
        /// The features' names.
        features: String,
    },
    /// The store uses a feature that this program must know to change it; reading is possible.
    #[error(
        "{path}: this store uses {features}, which {PROGRAM} does not know, so it can only read; use a newer lamina to change it"
    )]
    Closed {
        /// The store.
        path: PathBuf,
        /// The features' names.
        features: String,
    },
    /// A file of the store that is not a cache cannot be parsed.
    #[error("{path}: {cause}; remove it and pull the image again")]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A file of the store that no image needs cannot be parsed.
    #[error("{path}: {cause}; {remedy}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// No image has this name.
    #[error("no image {0:?} in the store: `lamina images` lists what is there, `lamina pull` fetches more")]
    NoSuchImage(String),
    /// The image is in an additional store; its name can only be removed there.
    #[error("image {reference} is in {store}, an additional store, which is read-only")]
    OnlyRead {
        /// The image's name.
        reference: String,
        /// The store that has it.
        store: PathBuf,
    },
    /// The store does not exist.
    #[error("{0}: there is no store here, so there are no images")]
    NoStoreYet(PathBuf),
    /// An additional store does not exist.
    #[error("{0}: there is no store here")]
    NoStore(PathBuf),
    /// A manifest is not in the store.
    #[error("manifest {0} is not in the store: pull the image again")]
    NoSuchManifest(Digest),
    /// A layer is not in the store.
    #[error("layer {0} is not in the store: pull the image again")]
    NoSuchLayer(DiffId),
    /// A base is not in the store.
    #[error("no base {0} in the store: `lamina prepare` makes the base of an image and prints its id")]
    NoSuchBase(BaseId),
    /// A layer's blob or another of its files is damaged.
    #[error("layer {layer} is damaged: {cause}")]
    DamagedLayer {
        /// The layer.
        layer: DiffId,
        /// What is wrong with it.
        cause: String,
    },
    /// A layer of an additional store that others can change, or a file of it, is not what it should be.
    #[error("layer {layer} of {store} is not used: {cause}; pull the image again")]
    Untrusted {
        /// The layer.
        layer: DiffId,
        /// The store.
        store: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The store belongs to neither this user nor root.
    #[error("{path}: this store belongs to {owner}, who could change it while it is used")]
    OfOthers {
        /// The store.
        path: PathBuf,
        /// The user.
        owner: String,
    },
    /// The stack of layers cannot be merged.
    #[error("{0}")]
    Merge(String),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The wait for a lock was cancelled.
    #[error("interrupted while waiting for another process to finish with {0}")]
    Interrupted(String),
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::write(&path, 0, cause)
    }

    /// Whether the host has no space or no quota left.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { cause, .. } | Self::NoSpace { cause, .. } if is_out_of_space(cause))
    }

    /// Whether this process may read the store but not change it.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Io { cause, .. } => is_closed(cause.kind()),
            Self::Closed { .. } => true,
            _ => false,
        }
    }

    /// Makes the error for a write that failed after the first `written` bytes of a file.
    pub(crate) fn write(path: &Path, written: u64, cause: io::Error) -> Self {
        let path = path.to_owned();
        match Shortage::measure(&cause, &path, written) {
            Some(shortage) => Self::NoSpace { path, cause, shortage },
            None => Self::Io { path, cause },
        }
    }

    /// Whether this process may not write where it needs to.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_closed()
    }
}

fn disk_failure(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        true => "; the disk fails: see the kernel's log (`dmesg`)",
        false => "",
    }
}

/// Whether an error means that this process may not write at all.
pub(crate) fn is_closed(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
