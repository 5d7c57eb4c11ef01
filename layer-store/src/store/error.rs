//! Why a store cannot do what it is asked.

use std::io;
use std::path::{Path, PathBuf};

use crate::{BaseId, DiffId, Digest};

/// This program, as messages about newer stores name it.
const PROGRAM: &str = concat!("lamina ", env!("CARGO_PKG_VERSION"));

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
    #[error("{path}: {cause}{}; make space, or free some with `lamina rmi` and `lamina gc`", shortage(*written, free.as_deref()))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
        /// Bytes of the file that are known to be needed: those written, or all of them. 0 where that is not known.
        written: u64,
        /// What was free beside what was written, in words: measured then, for afterwards that is free too.
        free: Option<String>,
    },
    /// The store is of a format that this program does not know.
    #[error("{path}: this store has format {found}, and {PROGRAM} knows formats up to {known}; use a newer lamina")]
    Format {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The store uses something that this program does not know, so it would misread it.
    #[error("{path}: this store uses {features}, which {PROGRAM} does not know; use a newer lamina")]
    Feature {
        /// The store.
        path: PathBuf,
        /// The features' names.
        features: String,
    },
    /// The store uses something that this program does not know: it may read the store and not change it.
    #[error(
        "{path}: this store uses {features}, which {PROGRAM} does not know: it only reads; use a newer lamina to change it"
    )]
    Closed {
        /// The store.
        path: PathBuf,
        /// The features' names.
        features: String,
    },
    /// A file of the store that is no cache cannot be understood.
    #[error("{path}: {cause}; remove it and pull the image again")]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A file of the store that no image needs cannot be understood.
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
    /// The image is in a store that is read also: its name is taken away there, or not at all.
    #[error("image {reference} is in {store}, which is only read: remove it with `lamina --store {store} rmi`")]
    OnlyRead {
        /// The image's name.
        reference: String,
        /// The store that has it.
        store: PathBuf,
    },
    /// There is no store to look into.
    #[error(
        "{0}: there is no store here, and so no image: `lamina pull` and `lamina import` make a store; --store and LAMINA_STORE name another"
    )]
    NoStoreYet(PathBuf),
    /// A store that is to be read also is not there.
    #[error("{0}: there is no store here: --also-read and LAMINA_ALSO_READ name directories of stores")]
    NoStore(PathBuf),
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
    /// It was called off.
    #[error("cancelled")]
    Cancelled,
    /// The wait for a lock was given up.
    #[error("interrupted while waiting for another process to finish with {0}")]
    Interrupted(String),
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::write(&path, 0, cause)
    }

    /// Whether the host has no space, or no quota, left.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { cause, .. } | Self::NoSpace { cause, .. } if is_out_of_space(cause))
    }

    /// Whether it says that this process may read the store and not change it.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Io { cause, .. } => super::is_closed(cause.kind()),
            Self::Closed { .. } => true,
            _ => false,
        }
    }

    /// A write behind the first `written` bytes of a file failed.
    pub(crate) fn write(path: &Path, written: u64, cause: io::Error) -> Self {
        let path = path.to_owned();
        if !is_out_of_space(&cause) {
            return Self::Io { path, cause };
        }
        let free = available(&cause, &path);
        Self::NoSpace { path, cause, written, free }
    }
}

/// What does not fit, and what there is for it.
fn shortage(written: u64, free: Option<&str>) -> String {
    match (written, free) {
        (0, None) => String::new(),
        (0, Some(free)) => format!(" ({free})"),
        (written, None) => format!(": it takes {written} bytes and more"),
        (written, Some(free)) => format!(": it takes {written} bytes and more (beside those written, {free})"),
    }
}

pub(crate) fn is_out_of_space(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remedy(cause: &io::Error, path: &Path) -> String {
    match cause.kind() {
        kind if super::is_closed(kind) => {
            let also = path.ancestors().find(|directory| directory.join("store.json").exists());
            let also = also.map(|store| format!(", and read this one too with --also-read {}", store.display()));
            format!("; choose a store that you may write with --store or LAMINA_STORE{}", also.unwrap_or_default())
        }
        _ if cause.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            "; the disk fails: the kernel's log (`dmesg`) says how".into()
        }
        _ => String::new(),
    }
}

/// What an ordinary user may still write where `path` is, or would be.
pub(crate) fn available(cause: &io::Error, path: &Path) -> Option<String> {
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    Some(match cause.kind() {
        // How much the quota has left only its file system's own tools say.
        io::ErrorKind::QuotaExceeded => format!("the quota is used up; the disk itself has {bytes} bytes free"),
        // A file system that does not count its inodes says that it has none.
        _ if stat.f_files > 0 && stat.f_favail == 0 => "no inode is free".into(),
        _ => format!("{bytes} bytes are free"),
    })
}
