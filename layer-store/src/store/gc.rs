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
use super::images::Image;
use super::layers::Layers;
use super::lock::FileLock;
use super::rest::{Borrowed, Remainder};
use super::{Store, lock, pins};
use crate::durable;
use crate::fault::{self, FaultPoint};
use crate::lease::{Held, Lease, unique_name};
use crate::remove::remove_tree;
use crate::sharing::blob;
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
    /// What it is: `layer`, `base`, `manifest`, `index`, `part`, `partial`, `leftover`.
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
    /// The index of a layer of another store.
    Index,
    /// Of a layer what nobody needs, where others borrow content from it.
    Part,
    /// The beginning of a layer whose transfer ended early.
    Partial,
    /// What a process left that was killed.
    Leftover,
}

/// Who needs what.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    pub(super) layers: BTreeMap<DiffId, BTreeSet<String>>,
    bases: BTreeSet<BaseId>,
    manifests: BTreeSet<Digest>,
    /// Layers of images of stores that are read also.
    borrowed: BTreeSet<DiffId>,
    /// Who has content in whose tar.
    sharing: Borrowed,
    /// An image of which nobody can say what it needs, and why.
    unknown: Option<String>,
    /// Leases whose holders are dead, and pins whose holders are gone.
    dead: Vec<PathBuf>,
    /// Staging directories of live leases.
    staging: BTreeSet<String>,
}

impl Layers<'_> {
    /// Who holds a layer: names of images, and what live processes do with it. Empty if it would be collected.
    pub fn holders(&self, layer: &DiffId) -> Result<Vec<String>, StoreError> {
        let home = self.store.home(layer);
        if !std::ptr::eq(home, self.store) {
            return home.layers().holders(layer);
        }
        if !self.store.layout.layer(layer).is_dir() {
            return Err(StoreError::NoSuchLayer(*layer));
        }
        let _exclusive = lock::exclusive(&self.store.layout.join("lock"))?;
        let mut reachable = self.store.reachable()?;
        let mut holders = reachable.layers.remove(layer).unwrap_or_default();
        holders.extend(reachable.unknown.take());
        let needed = reachable.sharing.donors.get(layer).into_iter().flat_map(|needed| &needed.by);
        holders.extend(needed.map(|(borrower, bytes)| format!("layer {borrower}, which has {bytes} bytes in it")));
        Ok(holders.into_iter().collect())
    }
}

impl Store {
    /// Collects garbage; with `dry_run` only says what it would take.
    pub fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        if !dry_run {
            self.may_change()?;
        }
        let exclusive = lock::exclusive(&self.layout.join("lock"))?;
        let reachable = self.reachable()?;
        let mut doomed = self.garbage(&reachable)?;
        let remainders = self.remainders(&reachable);
        let mut garbage: Vec<Garbage> = doomed.iter().map(|(garbage, _)| garbage.clone()).collect();
        garbage.extend(remainders.iter().map(Remainder::garbage));
        garbage.sort();
        let bytes = garbage.iter().map(|garbage| garbage.bytes).sum();
        if !dry_run {
            if !doomed.is_empty() {
                // Whoever took the last name away may not have waited for the disk yet: a power cut must not bring back
                // a name whose layers are gone.
                durable::sync_directory(&self.layout.join("images"))?;
            }
            fault::point(FaultPoint::GarbageFound);
            for remainder in &remainders {
                let parts = self.keep_rest(remainder)?;
                doomed.extend(parts.into_iter().map(|path| (remainder.garbage(), path)));
            }
            let aside = self.set_aside(&doomed)?;
            self.remove_stale_locks();
            drop(exclusive);
            fault::point(FaultPoint::GarbageAside);
            for path in &aside {
                delete(path).map_err(StoreError::io(path))?;
                fault::point(FaultPoint::GarbageFirstDeleted);
            }
            for remainder in &remainders {
                // What is not trimmed is only larger than it has to be.
                self.trim(remainder).unwrap_or_else(|error| tracing::warn!("not made smaller: {error}"));
            }
        }
        Ok(Collected { garbage, bytes })
    }

    /// What becomes of layers that are garbage and that others borrow from.
    fn remainders(&self, reachable: &Reachable) -> Vec<Remainder> {
        if let Some((layer, cause)) = &reachable.sharing.unknown {
            tracing::warn!("layer {layer}: {cause}; no layer is removed until `lamina verify --repair` has mended it");
        }
        if reachable.keeps_all_layers() {
            return Vec::new();
        }
        let donors = reachable.sharing.donors.iter();
        let garbage = donors.filter(|(donor, _)| !reachable.layers.contains_key(donor));
        garbage.filter_map(|(donor, needed)| self.remainder(*donor, needed)).collect()
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

    /// Finds everything that is needed. The caller holds the lock exclusively.
    pub(super) fn reachable(&self) -> Result<Reachable, StoreError> {
        let mut reachable = Reachable::default();
        let (images, damaged) = self.own_names()?;
        damaged.iter().for_each(|error| reachable.not_understood(&format!("name {error}"), ""));
        for image in images {
            reachable.manifests.insert(image.manifest_digest);
            match self.image_by_manifest(&image.reference, &image.manifest_digest) {
                Ok(found) => {
                    reachable.manifests.extend(found.documents());
                    reachable.bases.insert(BaseId::of(&found.layers, &[]));
                    for layer in found.layers {
                        reachable.layers.entry(layer).or_default().insert(format!("image {}", image.reference));
                    }
                }
                Err(error) => {
                    let remedy = format!(", or removed with `lamina rmi {}`", image.reference);
                    reachable.not_understood(&format!("image {}: {error}", image.reference), &remedy);
                }
            }
        }
        // Who reads another store has the bases of its images here, and what indexes its layers lack.
        for other in &self.others {
            for image in other.readable_images()? {
                reachable.bases.insert(BaseId::of(&image.layers, &[]));
                reachable.borrowed.extend(image.layers);
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
        for path in list_if_there(&self.layout.pins())? {
            match pins::read(&path) {
                Ok(Some((purpose, things))) => things.into_iter().for_each(|thing| reachable.hold(thing, &purpose)),
                Ok(None) => reachable.dead.push(path),
                Err(error) => return Err(error),
            }
        }
        reachable.sharing = self.borrowed(reachable.layers.keys());
        Ok(reachable)
    }

    fn readable_images(&self) -> Result<Vec<Image>, StoreError> {
        let names = self.own_images()?.into_iter();
        Ok(names.filter_map(|name| self.image_by_manifest(&name.reference, &name.manifest_digest).ok()).collect())
    }

    /// Files of a layer in the place of which others have come.
    fn outlived(&self, layer: &DiffId, reachable: &Reachable) -> Vec<PathBuf> {
        let is_whole = self.layout.blob(layer).is_file();
        let is_borrowed = reachable.sharing.donors.contains_key(layer) || reachable.keeps_all_layers();
        let mut outlived = Vec::new();
        if is_whole {
            outlived.extend([blob::THIN, blob::MAP, blob::REST]);
        } else if !is_borrowed {
            outlived.push(blob::REST);
        }
        let paths = outlived.into_iter().map(|name| self.layout.layer(layer).join(name));
        paths.filter(|path| path.exists()).collect()
    }

    fn garbage(&self, reachable: &Reachable) -> Result<Vec<(Garbage, PathBuf)>, StoreError> {
        let mut doomed: Vec<(Garbage, PathBuf)> = Vec::new();
        let mut doom = |kind, name: String, path: PathBuf| {
            doomed.push((Garbage { kind, name, bytes: disk_bytes(&path) }, path));
        };
        for path in list(&self.layout.layers())? {
            match digest(&path).map(DiffId) {
                Some(layer) if reachable.layers.contains_key(&layer) => {
                    for path in self.outlived(&layer, reachable) {
                        let name = format!("{layer}/{}", file_name(&path));
                        doom(GarbageKind::Leftover, name, path);
                    }
                }
                Some(layer) if reachable.sharing.donors.contains_key(&layer) => {}
                Some(_) if reachable.keeps_all_layers() => {}
                Some(layer) => doom(GarbageKind::Layer, layer.to_string(), path),
                None => doom(GarbageKind::Leftover, file_name(&path), path),
            }
        }
        for path in list(&self.layout.join("compressed/sha256"))? {
            let layer = fs::read_to_string(&path).ok().and_then(|text| text.trim_end().parse::<DiffId>().ok());
            if !layer.is_some_and(|layer| reachable.layers.contains_key(&layer) || reachable.keeps_all_layers()) {
                doom(GarbageKind::Leftover, file_name(&path), path);
            }
        }
        for path in list(&self.layout.join("bases"))? {
            let is_needed = |base| reachable.bases.contains(&base) || reachable.unknown.is_some();
            if !file_name(&path).parse().is_ok_and(is_needed) {
                doom(GarbageKind::Base, file_name(&path), path);
            }
        }
        for path in list(&self.layout.join("manifests/sha256"))? {
            let is_needed = |digest| reachable.manifests.contains(&digest) || reachable.unknown.is_some();
            if !digest(&path).is_some_and(is_needed) {
                doom(GarbageKind::Manifest, format!("sha256:{}", file_name(&path)), path);
            }
        }
        for path in list_if_there(&self.layout.borrowed_indexes())? {
            let is_used = |layer| reachable.layers.contains_key(&layer) || reachable.borrowed.contains(&layer);
            if !digest(&path).map(DiffId).is_some_and(is_used) {
                doom(GarbageKind::Index, format!("sha256:{}", file_name(&path)), path);
            }
        }
        for path in self.stale_partials()? {
            doom(GarbageKind::Partial, format!("sha256:{}", file_name(&path)), path);
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
    /// Notes that an image is there and cannot be read now. What it needs may all be there, and its layers' donors.
    fn not_understood(&mut self, what: &str, remedy: &str) {
        tracing::warn!("{what}; no layer, base or manifest is removed until it is pulled or imported again{remedy}");
        self.unknown = Some(format!("what cannot be read: {what}"));
    }

    /// Whether any layer may be one that is needed: of an image that cannot be read, or one from which another borrows
    /// whose map cannot be read.
    fn keeps_all_layers(&self) -> bool {
        self.unknown.is_some() || self.sharing.unknown.is_some()
    }

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
    /// Every layer of the store, and those of which others have content.
    pub(super) fn stored_layers(&self) -> Result<Vec<DiffId>, StoreError> {
        Ok(list(&self.layout.layers())?.iter().filter_map(|path| digest(path).map(DiffId)).collect())
    }
}

/// Deletes a file or a directory with all below it. Another collection may do so too.
fn delete(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path).map(|metadata| metadata.is_dir());
    let deleted = is_directory.and_then(|is| if is { remove_tree(path) } else { fs::remove_file(path) });
    deleted.or_else(|cause| if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn digest(path: &Path) -> Option<Digest> {
    Digest::from_hex(&file_name(path)).ok()
}

/// Lists a directory that an earlier version, or who has not needed it yet, has not made. Any other error is one: that
/// what it lists is needed by nobody must not be a guess.
pub(super) fn list_if_there(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match list(directory) {
        Err(StoreError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
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
