//! Leases name what a live process uses. Nothing that a lease names is ever collected.

use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::geteuid;

use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lock::FileLock;
use crate::regular;
use crate::{BaseId, DiffId, Digest};

/// Something that a lease holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Held {
    Layer(DiffId),
    Base(BaseId),
    Manifest(Digest),
}

impl Held {
    /// Returns the line for it in a lease file.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Layer(layer) => format!("layer {layer}\n"),
            Self::Base(base) => format!("base {base}\n"),
            Self::Manifest(digest) => format!("manifest {digest}\n"),
        }
    }

    /// Parses such a line; `None` for an incomplete line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (noun, name) = line.split_once(' ')?;
        match noun {
            "layer" => name.parse().ok().map(Self::Layer),
            "base" => name.parse().ok().map(Self::Base),
            "manifest" => name.parse().ok().map(Self::Manifest),
            _ => None,
        }
    }
}

/// A lease: a file that names what its holder uses, locked for as long as the holder lives.
///
/// Lines are added under the store's shared lock, so that a collection, which holds it exclusively, sees either the
/// thing in use or no process using it. Next to it is `tmp/<id>/`, where the holder makes things. Both are deleted when
/// the lease is dropped, or by the next collection after the holder died.
#[derive(Debug)]
pub(crate) struct Lease {
    lock: FileLock,
    tmp: PathBuf,
    held: Mutex<Vec<Held>>,
}

impl Lease {
    /// Takes a new lease in the store of the user `owner`. `purpose` tells users what the lease is for, and becomes its
    /// first line.
    pub(crate) fn take(leases: &Path, tmp: &Path, purpose: &str, owner: u32) -> Result<Self, StoreError> {
        loop {
            let id = unique_name();
            let path = leases.join(&id);
            if path.exists() {
                continue;
            }
            let Some(lock) = FileLock::try_take(&path)? else { continue };
            // Nobody else can lock the lease of a store's owner. If the owner lets others take leases, the owner's
            // collections must be able to read them.
            if owner != geteuid().as_raw() {
                lock.file().set_permissions(PermissionsExt::from_mode(0o644)).map_err(StoreError::io(&path))?;
            }
            let lease = Self { lock, tmp: tmp.join(&id), held: Mutex::default() };
            fault::point(FaultPoint::LeaseTaken);
            lease.write(&format!("# {purpose}, process {}\n", std::process::id()))?;
            return Ok(lease);
        }
    }

    /// Reads a lease file: its purpose and what it holds. `None` if its holder is dead, or if the file is not a lease.
    ///
    /// Others may put anything into a directory of leases that is open to them. What cannot be a lease, or is another
    /// user's and cannot be read, holds nothing; it must not keep the owner from collecting.
    pub(crate) fn read(path: &Path, owner: u32) -> Result<Option<(String, Vec<Held>)>, StoreError> {
        let not_a_lease = |cause: &io::Error| {
            tracing::warn!("{}: ignored, because it is not a lease: {cause}", path.display());
            Ok(None)
        };
        let is_foreign = || {
            let found = fs::symlink_metadata(path);
            found.is_ok_and(|found| found.uid() != 0 && found.uid() != owner && found.uid() != geteuid().as_raw())
        };
        let file = match regular::open(path) {
            Ok(file) => file,
            // Its holder has just ended.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Some(Default::default())),
            Err(cause) if regular::is_odd(&cause) || is_foreign() => return not_a_lease(&cause),
            // A reader asks what holds a layer, and may not read the leases of the store's owner.
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied && owner != geteuid().as_raw() => {
                return Ok(Some(("a process of the store's owner".to_owned(), Vec::new())));
            }
            Err(cause) => return Err(StoreError::io(path)(cause)),
        };
        match file.try_lock_shared() {
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(cause)) => return Err(StoreError::io(path)(cause)),
        }
        let text = match regular::read_open(&file, regular::NOTE_MAX) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(cause) if is_foreign() => return not_a_lease(&cause),
            Err(cause) => return Err(StoreError::io(path)(cause)),
        };
        let mut lines = text.lines();
        let purpose = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or("a process").to_owned();
        Ok(Some((purpose, lines.filter_map(Held::parse).collect())))
    }

    /// Adds whole lines, or nothing: if a full disk left a part of a line, the next line could not be read either.
    fn write(&self, text: &str) -> Result<(), StoreError> {
        let file = self.lock.file();
        let length = file.metadata().map_err(StoreError::io(&self.tmp))?.len();
        file.write_all_at(text.as_bytes(), length).map_err(|cause| {
            // Truncating needs no space.
            let _ = file.set_len(length);
            StoreError::io(&self.tmp)(cause)
        })
    }

    /// Adds things to the lease. The caller holds the store's shared lock.
    pub(crate) fn hold(&self, things: &[Held]) -> Result<(), StoreError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for thing in things {
            if !held.contains(thing) {
                self.write(&thing.line())?;
                held.push(*thing);
            }
        }
        Ok(())
    }

    /// Creates a directory in which this lease's holder can make things.
    pub(crate) fn staging(&self) -> Result<tempfile::TempDir, StoreError> {
        // Unfinished things, and trees with the owners and modes of an image, must be private.
        let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.tmp);
        made.map_err(StoreError::io(&self.tmp))?;
        let staging = tempfile::Builder::new().prefix("").tempdir_in(&self.tmp).map_err(StoreError::io(&self.tmp))?;
        // This directory may become part of the store.
        regular::open_directory_mode(staging.path()).map_err(StoreError::io(&self.tmp))?;
        Ok(staging)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Only removed if it is empty: something may still be made in it.
        let _ = fs::remove_dir(&self.tmp);
    }
}

/// Returns a unique name: 16 random hex digits.
pub(crate) fn unique_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    // Every RandomState has a new seed from the operating system.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{random:016x}")
}
