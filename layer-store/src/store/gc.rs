//! Garbage collection: what no image, mount, machine or running command needs goes.
//!
//! A collection holds the store's lock exclusively, so nobody can begin to use anything meanwhile: adding to a lease
//! takes it shared. Roots are the images (with their manifests, configs, layers and the base without a variant)
//! and everything that a lease of a live process, or a pin whose holder is there, names. What is to go is renamed into `tmp/` first and
//! deleted after the lock is free; a collection killed in between leaves that to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::lock::FileLock;
use super::{Store, lock, pins};
use crate::fault::{self, FaultPoint};
use crate::lease::{Held, Lease, unique_name};
use crate::{BaseId, DiffId, Digest};

/// What a collection took away, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Everything, in the order of kinds and names.
    pub garbage: Vec<Garbage>,
    /// Bytes on disk that it took.
    pub bytes: u64,
}

/// One thing that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Garbage {
    /// What it is: `layer`, `base`, `manifest`, `leftover`.
    pub kind: GarbageKind,
    /// Its digest, base id or file name.
    pub name: String,
    /// Bytes on disk that it takes.
    pub bytes: u64,
}

/// What a piece of garbage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GarbageKind {
    /// A layer: blob and index.
    Layer,
    /// A prepared base.
    Base,
    /// A manifest or a config.
    Manifest,
    /// What a process left that was killed.
    Leftover,
}

/// Who needs what.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    pub(super) layers: BTreeMap<DiffId, BTreeSet<String>>,
    bases: BTreeSet<BaseId>,
    manifests: BTreeSet<Digest>,
    /// Leases whose holders are dead, and pins whose holders are gone.
    dead: Vec<PathBuf>,
    /// Staging directories of live leases.
    staging: BTreeSet<String>,
}

impl Store {
    /// Collects garbage; with `dry_run` only says what it would take.
    pub fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        let exclusive = lock::exclusive(&self.layout.join("lock"))?;
        let reachable = self.reachable()?;
        let doomed = self.garbage(&reachable)?;
        let garbage: Vec<Garbage> = doomed.iter().map(|(garbage, _)| garbage.clone()).collect();
        let bytes = garbage.iter().map(|garbage| garbage.bytes).sum();
        if !dry_run {
            fault::point(FaultPoint::GarbageFound);
            let aside = self.set_aside(&doomed)?;
            self.remove_stale_locks();
            drop(exclusive);
            fault::point(FaultPoint::GarbageAside);
            for path in &aside {
                delete(path).map_err(StoreError::io(path))?;
                fault::point(FaultPoint::GarbageFirstDeleted);
            }
        }
        Ok(Collected { garbage, bytes })
    }

    /// Renames garbage into `tmp/`, whence this or any later collection deletes it. Makes no file and no directory, and
    /// so needs no space: this is what helps when the disk is full.
    fn set_aside(&self, doomed: &[(Garbage, PathBuf)]) -> Result<Vec<PathBuf>, StoreError> {
        let bin = self.layout.join("tmp").join(format!("collected-{}", unique_name()));
        let mut aside = Vec::with_capacity(doomed.len());
        for (number, (_, path)) in doomed.iter().enumerate() {
            let to = bin.with_extension(number.to_string());
            match fs::rename(path, &to) {
                Ok(()) => aside.push(to),
                // A collection at the same time deletes what it set aside, and a lease goes with its holder.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(StoreError::io(path)(cause)),
            }
            fault::point(FaultPoint::GarbageFirstAside);
        }
        Ok(aside)
    }

    /// Who holds a layer: names of images, and what live processes do with it. Empty if it would be collected.
    pub fn holders(&self, layer: &DiffId) -> Result<Vec<String>, StoreError> {
        if !self.layout.blob(layer).is_file() {
            return Err(StoreError::NoSuchLayer(*layer));
        }
        let _exclusive = lock::exclusive(&self.layout.join("lock"))?;
        let mut reachable = self.reachable()?;
        Ok(reachable.layers.remove(layer).unwrap_or_default().into_iter().collect())
    }

    /// Finds everything that is needed. The caller holds the lock exclusively.
    pub(super) fn reachable(&self) -> Result<Reachable, StoreError> {
        let mut reachable = Reachable::default();
        for image in self.images()? {
            reachable.manifests.insert(image.manifest_digest);
            match self.image_by_manifest(&image.reference, &image.manifest_digest) {
                Ok(found) => {
                    reachable.manifests.extend(found.documents());
                    reachable.bases.insert(BaseId::of(&found.layers, &[]));
                    for layer in found.layers {
                        reachable.layers.entry(layer).or_default().insert(format!("image {}", image.reference));
                    }
                }
                Err(error) => tracing::warn!("{}: {error}", image.reference),
            }
        }
        let leases = self.layout.join("leases");
        for path in list(&leases)? {
            match Lease::read(&path)? {
                None => reachable.dead.push(path),
                Some((purpose, things)) => {
                    reachable.staging.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
                    for thing in things {
                        reachable.hold(thing, &purpose);
                    }
                }
            }
        }
        for path in list(&self.layout.pins()).unwrap_or_default() {
            match pins::read(&path) {
                Ok(Some((purpose, things))) => things.into_iter().for_each(|thing| reachable.hold(thing, &purpose)),
                Ok(None) => reachable.dead.push(path),
                Err(error) => return Err(error),
            }
        }
        Ok(reachable)
    }

    fn garbage(&self, reachable: &Reachable) -> Result<Vec<(Garbage, PathBuf)>, StoreError> {
        let mut doomed: Vec<(Garbage, PathBuf)> = Vec::new();
        let mut doom = |kind, name: String, path: PathBuf| {
            doomed.push((Garbage { kind, name, bytes: disk_bytes(&path) }, path));
        };
        for path in list(&self.layout.layers())? {
            match digest(&path).map(DiffId) {
                Some(layer) if reachable.layers.contains_key(&layer) => {}
                Some(layer) => doom(GarbageKind::Layer, layer.to_string(), path),
                None => doom(GarbageKind::Leftover, file_name(&path), path),
            }
        }
        for path in list(&self.layout.join("compressed/sha256"))? {
            let layer = fs::read_to_string(&path).ok().and_then(|text| text.trim_end().parse::<DiffId>().ok());
            if !layer.is_some_and(|layer| reachable.layers.contains_key(&layer)) {
                doom(GarbageKind::Leftover, file_name(&path), path);
            }
        }
        for path in list(&self.layout.join("bases"))? {
            let base = file_name(&path).parse::<BaseId>();
            if !base.as_ref().is_ok_and(|base| reachable.bases.contains(base)) {
                doom(GarbageKind::Base, file_name(&path), path);
            }
        }
        for path in list(&self.layout.join("manifests/sha256"))? {
            if !digest(&path).is_some_and(|digest| reachable.manifests.contains(&digest)) {
                doom(GarbageKind::Manifest, format!("sha256:{}", file_name(&path)), path);
            }
        }
        for path in &reachable.dead {
            doom(GarbageKind::Leftover, file_name(path), path.clone());
        }
        for path in list(&self.layout.join("tmp"))? {
            if !reachable.staging.contains(&file_name(&path)) {
                doom(GarbageKind::Leftover, file_name(&path), path);
            }
        }
        doomed.sort();
        Ok(doomed)
    }

    /// Lock files go with their locks; those of killed processes are still there.
    fn remove_stale_locks(&self) {
        for path in list(&self.layout.join("locks")).unwrap_or_default() {
            drop(FileLock::try_take(&path));
        }
    }
}

impl Reachable {
    fn hold(&mut self, thing: Held, purpose: &str) {
        match thing {
            Held::Layer(layer) => {
                self.layers.entry(layer).or_default().insert(purpose.to_owned());
            }
            Held::Base(base) => {
                self.bases.insert(base);
            }
            Held::Manifest(manifest) => {
                self.manifests.insert(manifest);
            }
        }
    }
}

impl Store {
    /// Every layer of the store.
    pub(super) fn stored_layers(&self) -> Result<Vec<DiffId>, StoreError> {
        Ok(list(&self.layout.layers())?.iter().filter_map(|path| digest(path).map(DiffId)).collect())
    }
}

/// Deletes a file or a directory with all below it. Another collection may do so too.
fn delete(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path).map(|metadata| metadata.is_dir());
    let deleted = is_directory.and_then(|is| if is { fs::remove_dir_all(path) } else { fs::remove_file(path) });
    deleted.or_else(|cause| if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn digest(path: &Path) -> Option<Digest> {
    Digest::from_hex(&file_name(path)).ok()
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(directory).map_err(StoreError::io(directory))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(StoreError::io(directory))).collect()
}

/// Bytes on disk of a file, or of a directory with all below it; what cannot be read counts nothing.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = match metadata.is_dir() {
        true => list(path).unwrap_or_default().iter().map(|path| disk_bytes(path)).sum(),
        false => 0,
    };
    metadata.blocks() * 512 + below
}
