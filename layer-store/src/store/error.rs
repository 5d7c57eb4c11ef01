//! Why a store cannot do what it is asked.

use std::io;
use std::path::{Path, PathBuf};

use crate::{BaseId, DiffId, Digest};

/// Why a store cannot do what it is asked. Every text names the thing and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The host said no.
    #[error("{path}: {cause}{}", remedy(cause, path))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// Something does not fit on the disk. What was written of it is gone again when this is shown.
    #[error("{path}: {cause}: it takes more than {written} bytes{}", remedy(cause, path))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
        /// Bytes of the file that had been written when there was no more space.
        written: u64,
    },
    /// The store is of a format that this program does not know.
    #[error("{path}: this store has format {found}, and this program knows formats up to {known}; use a newer lamina")]
    Format {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The store uses something that this program does not know.
    #[error("{path}: this store uses {feature:?}, which this program does not know; use a newer lamina")]
    Feature {
        /// The store.
        path: PathBuf,
        /// The feature's name.
        feature: String,
    },
    /// A file of the store that is no cache cannot be understood.
    #[error("{path}: {cause}; remove it and pull the image again")]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// No image has this name.
    #[error("no image {0:?} in the store: `lamina images` lists what is there, `lamina pull` fetches more")]
    NoSuchImage(String),
    /// A document is not in the store.
    #[error("manifest {0} is not in the store: pull the image again")]
    NoSuchManifest(Digest),
    /// A layer is not in the store.
    #[error("layer {0} is not in the store: pull the image again")]
    NoSuchLayer(DiffId),
    /// A base is not in the store.
    #[error("no base {0} in the store: `lamina prepare` makes the base of an image and prints its id")]
    NoSuchBase(BaseId),
    /// A blob does not have the digest that it is named by.
    #[error("layer {layer} is damaged: {cause}; `lamina verify --repair` fetches it again")]
    DamagedLayer {
        /// The layer.
        layer: DiffId,
        /// What is wrong with it.
        cause: String,
    },
    /// The stack cannot be merged.
    #[error("{0}")]
    Merge(String),
    /// The wait for a lock was given up.
    #[error("interrupted while waiting for another process to finish with {0}")]
    Interrupted(String),
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }

    /// Whether the host has no space, or no quota, left.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { cause, .. } | Self::NoSpace { cause, .. } if is_out_of_space(cause))
    }

    /// A write behind the first `written` bytes of a file failed.
    pub(crate) fn write(path: &Path, written: u64, cause: io::Error) -> Self {
        let path = path.to_owned();
        if is_out_of_space(&cause) { Self::NoSpace { path, cause, written } } else { Self::Io { path, cause } }
    }
}

fn is_out_of_space(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remedy(cause: &io::Error, path: &Path) -> String {
    match cause.kind() {
        kind if super::is_closed(kind) => "; choose a store that you may write with --store or LAMINA_STORE".into(),
        _ if is_out_of_space(cause) => {
            let free = available(path).map(|free| format!(" ({free} bytes are free)")).unwrap_or_default();
            format!("{free}; make space, or free some with `lamina rmi` and `lamina gc`")
        }
        _ => String::new(),
    }
}

/// Bytes that an ordinary user may still write where `path` is, or would be.
fn available(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
