//! Garbage collection: deletes what no image, mount, machine or running command needs.
//!
//! A collection holds the store's lock exclusively, so no process can begin to use anything in the meantime: adding to
//! a lease takes the lock shared. Roots are the images (with their manifests, configs, layers and the base without a
//! variant) and everything named by a lease of a live process or by a pin whose holder exists. Garbage is renamed into
//! `tmp/` first and deleted after the lock is released; if the collection is killed in between, the next one deletes
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{digest, disk_bytes, file_name, list, list_if_there};
use super::garbage::{Collected, Garbage, GarbageKind};
use super::handle::Store;
use super::images::Image;
use super::layers::Layers;
use super::names::Other;
use super::pins;
use super::remnant::{Borrowed, Remnant};
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lease::{Held, Lease, unique_name};
use crate::lock::FileLock;
use crate::regular;
use crate::remove::remove_tree;
use crate::sharing::blob;
use crate::{BaseId, DiffId, Digest};

/// Everything that is needed, and what needs it.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    pub(super) layers: BTreeMap<DiffId, BTreeSet<String>>,
    bases: BTreeSet<BaseId>,
    manifests: BTreeSet<Digest>,
    /// Layers of images of additional stores.
    borrowed: BTreeSet<DiffId>,
    /// Which layers borrow from which.
    sharing: Borrowed,
    /// An image whose needs are unknown, and why.
    unknown: Option<String>,
    /// Leases whose holders are dead, and pins whose holders no longer exist.
    dead: Vec<PathBuf>,
    /// Staging directories of live leases.
    staging: BTreeSet<String>,
}

impl Layers<'_> {
    /// Returns what holds a layer: names of images, and the purposes of live processes. It is empty if the layer would
    /// be collected.
    pub fn holders(&self, layer: &DiffId) -> Result<Vec<String>, StoreError> {
        let home = self.store.home(layer);
        if !std::ptr::eq(home, self.store) {
            return home.layers().holders(layer);
        }
        if !self.store.layout.layer(layer).is_dir() {
            return Err(StoreError::NoSuchLayer(*layer));
        }
        let _exclusive = self.store.exclusive_lock()?;
        let mut reachable = self.store.reachable()?;
        let mut holders = reachable.layers.remove(layer).unwrap_or_default();
        holders.extend(reachable.unknown.take());
        let needed = reachable.sharing.donors.get(layer).into_iter().flat_map(|needed| &needed.by);
        holders.extend(needed.map(|(borrower, bytes)| format!("layer {borrower}, which borrows {bytes} bytes of it")));
        Ok(holders.into_iter().collect())
    }
}

impl Store {
    /// Collects garbage. With `dry_run`, only returns what it would delete.
    pub fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        if !dry_run {
            self.may_change()?;
        }
        let exclusive = self.exclusive_lock()?;
        if exclusive.is_none() && !dry_run {
            return Err(StoreError::io(self.root())(io::ErrorKind::PermissionDenied.into()));
        }
        let reachable = self.reachable()?;
        let mut doomed = self.garbage(&reachable)?;
        let remnants = self.remnants(&reachable);
        let mut garbage: Vec<Garbage> = doomed.iter().map(|(garbage, _)| garbage.clone()).collect();
        garbage.extend(remnants.iter().map(Remnant::garbage));
        garbage.sort();
        let bytes = garbage.iter().map(|garbage| garbage.bytes).sum();
        if !dry_run {
            if !doomed.is_empty() {
                // The process that removed the last name may not have synced it yet: a power cut must not bring back
                // a name whose layers are gone.
                durable::sync_directory(&self.layout.join("images"))?;
            }
            fault::point(FaultPoint::GarbageFound);
            for remnant in &remnants {
                let parts = self.keep_remnant(remnant)?;
                doomed.extend(parts.into_iter().map(|path| (remnant.garbage(), path)));
            }
            let aside = self.set_aside(&doomed)?;
            self.remove_stale_locks();
            drop(exclusive);
            fault::point(FaultPoint::GarbageAside);
            for path in &aside {
                delete(path).map_err(StoreError::io(path))?;
                fault::point(FaultPoint::GarbageFirstDeleted);
            }
            for remnant in &remnants {
                // If this fails, the remnant is only larger than necessary.
                self.trim(remnant).unwrap_or_else(|error| tracing::warn!("remnant not made smaller: {error}"));
            }
        }
        Ok(Collected { garbage, bytes })
    }

    /// Returns what to do with layers that are garbage but that others borrow from.
    fn remnants(&self, reachable: &Reachable) -> Vec<Remnant> {
        if let Some((layer, cause)) = &reachable.sharing.unknown {
            tracing::warn!("layer {layer}: {cause}; no layer is removed until the layer is repaired");
        }
        if reachable.keeps_all_layers() {
            return Vec::new();
        }
        let donors = reachable.sharing.donors.iter();
        let garbage = donors.filter(|(donor, _)| !reachable.layers.contains_key(donor));
        garbage.filter_map(|(donor, needed)| self.remnant(*donor, needed)).collect()
    }

    /// Renames garbage into `tmp/`, where this or a later collection deletes it. It creates no file and no directory,
    /// so it needs no space and works on a full disk.
    fn set_aside(&self, doomed: &[(Garbage, PathBuf)]) -> Result<Vec<PathBuf>, StoreError> {
        let bin = self.layout.join("tmp").join(format!("collected-{}", unique_name()));
        let mut aside = Vec::with_capacity(doomed.len());
        for (number, (_, path)) in doomed.iter().enumerate() {
            let to = bin.with_extension(number.to_string());
            match fs::rename(path, &to) {
                Ok(()) => aside.push(to),
                // A concurrent collection may have deleted it, and a lease disappears with its holder.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                // If others may take leases, they may also put a directory there that only they can move.
                Err(cause) if self.is_lease(path) => tracing::warn!("{}: not removed: {cause}", path.display()),
                Err(cause) => return Err(StoreError::io(path)(cause)),
            }
            fault::point(FaultPoint::GarbageFirstAside);
        }
        Ok(aside)
    }

    fn is_lease(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| parent == self.layout.join("leases"))
    }

    /// Finds everything that is needed. The caller holds the lock exclusively.
    pub(super) fn reachable(&self) -> Result<Reachable, StoreError> {
        let mut reachable = Reachable::default();
        let (images, damaged) = self.own_names()?;
        damaged.iter().for_each(|error| reachable.not_understood(&format!("name {error}"), ""));
        for image in images {
            reachable.manifests.extend([image.manifest_digest].into_iter().chain(image.index));
            reachable.manifests.extend(&image.others);
            let main = self.image_by_manifest(&image.reference, &image.manifest_digest);
            let others = image.others.iter().map(|other| self.other(&image.reference, other));
            for found in std::iter::once(main.map(|image| Other::Image(Box::new(image)))).chain(others) {
                match found {
                    Ok(found) => reachable.need(found, &image.reference),
                    Err(error) => {
                        let remedy = format!(", or removed with `lamina rmi {}`", image.reference);
                        reachable.not_understood(&format!("image {}: {error}", image.reference), &remedy);
                    }
                }
            }
        }
        // This store has the bases of images of additional stores, and the indexes that their layers lack.
        for other in self.trusted().skip(1) {
            for image in other.readable_images()? {
                reachable.bases.insert(BaseId::of(&image.layers, &[]));
                reachable.borrowed.extend(image.layers);
            }
        }
        let leases = self.layout.join("leases");
        for path in list(&leases)? {
            match Lease::read(&path, self.owner)? {
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

    /// Returns the files of a layer that other files have superseded.
    fn superseded(&self, layer: &DiffId, reachable: &Reachable) -> Vec<PathBuf> {
        let is_whole = self.layout.blob(layer).is_file();
        let is_borrowed = reachable.sharing.donors.contains_key(layer) || reachable.keeps_all_layers();
        let mut superseded = Vec::new();
        if is_whole {
            superseded.extend([blob::THIN, blob::MAP, blob::REMNANT]);
        } else if !is_borrowed {
            superseded.push(blob::REMNANT);
        }
        let paths = superseded.into_iter().map(|name| self.layout.layer(layer).join(name));
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
                    for path in self.superseded(&layer, reachable) {
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
            let layer = regular::read_text(&path, regular::NOTE_MAX)
                .ok()
                .and_then(|text| text.trim_end().parse::<DiffId>().ok());
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

    /// A lock file is removed with its lock, but those of killed processes remain.
    fn remove_stale_locks(&self) {
        for path in list(&self.layout.join("locks")).unwrap_or_default() {
            drop(FileLock::try_take(&path));
        }
    }
}

impl Reachable {
    /// Records what an image of the name `reference` needs.
    fn need(&mut self, found: Other, reference: &str) {
        match found {
            Other::Image(image) => {
                self.manifests.extend(image.documents());
                self.bases.insert(BaseId::of(&image.layers, &[]));
                for layer in image.layers {
                    self.layers.entry(layer).or_default().insert(format!("image {reference}"));
                }
            }
            Other::Documents(documents) => self.manifests.extend(documents),
        }
    }

    /// Records that an image exists but cannot be read. It may need anything in the store, even as a donor of its
    /// layers.
    fn not_understood(&mut self, what: &str, remedy: &str) {
        tracing::warn!("{what}; no layer, base or manifest is removed until it is pulled or imported again{remedy}");
        self.unknown = Some(format!("what cannot be read: {what}"));
    }

    /// Whether any layer may be needed: because an image cannot be read, or because the sharing map of a layer, which
    /// may borrow from any other layer, cannot be read.
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

/// Deletes a file, or a directory with everything below it. Another collection may be deleting it at the same time.
fn delete(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path).map(|metadata| metadata.is_dir());
    let deleted = is_directory.and_then(|is| if is { remove_tree(path) } else { fs::remove_file(path) });
    deleted.or_else(|cause| if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) })
}
