//! Remnants: the content that other layers borrow from a layer that is garbage itself.
//!
//! Such a layer is no longer in the store: its tar is renamed to `rest`, where only its borrowers look for it. The
//! rename needs no space. If at least a quarter of the remnant, and at least 1 MiB, is not needed, the needed parts are
//! copied to a new file with the same offsets, which replaces the old one; a process that has the old one open keeps
//! it. If the layer is added again, its own tar is stored next to the remnant. Because other layers may then borrow
//! from that tar, a remnant is not replaced if the layer was added while the copy was made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::disk_bytes;
use super::garbage::{Garbage, GarbageKind};
use super::handle::Store;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lock;
use crate::regular;
use crate::sharing::blob::{self, REMNANT, THIN, WHOLE};
use crate::sharing::choose::BLOCK;
use crate::{DiffId, durable};

/// The least that a copy must free, in bytes, in addition to a quarter of what the remnant takes.
const WORTH_COPYING: u64 = 1 << 20;

/// All files of a layer.
const NAMES: [&str; 7] = [WHOLE, THIN, REMNANT, "index", "contents", blob::MAP, "sources"];

/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// What layers borrow from others.
#[derive(Debug, Default)]
pub(super) struct Borrowed {
    /// By donor: the parts of its tar that are borrowed, and how many bytes each borrower has in it.
    pub(super) donors: BTreeMap<DiffId, Needed>,
    /// A layer whose sharing map cannot be read, so that its needs are unknown, and the error.
    pub(super) unknown: Option<(DiffId, String)>,
}

/// What other layers need from a layer.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Parts of its tar, in whole blocks, unsorted.
    parts: Vec<Range<u64>>,
    /// Bytes by borrower.
    pub(super) by: BTreeMap<DiffId, u64>,
}

impl Needed {
    /// Returns the parts in order, with adjacent ones merged.
    fn parts(&self) -> Vec<Range<u64>> {
        let mut sorted = self.parts.clone();
        sorted.sort_unstable_by_key(|part| (part.start, part.end));
        let mut parts: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
        for part in sorted {
            match parts.last_mut().filter(|last| last.end >= part.start) {
                Some(last) => last.end = last.end.max(part.end),
                None => parts.push(part),
            }
        }
        parts
    }
}

/// What happens to a layer that is garbage while others borrow from it.
#[derive(Debug)]
pub(super) struct Remnant {
    layer: DiffId,
    /// The parts to copy, if copying is worth it.
    copied: Option<Vec<Range<u64>>>,
    /// How many bytes this frees.
    pub(super) frees: u64,
}

impl Remnant {
    pub(super) fn garbage(&self) -> Garbage {
        Garbage { kind: GarbageKind::Part, name: self.layer.to_string(), bytes: self.frees }
    }
}

impl Store {
    /// Returns what these layers borrow, and from which layers.
    pub(super) fn borrowed<'a>(&self, layers: impl Iterator<Item = &'a DiffId>) -> Borrowed {
        let mut borrowed = Borrowed::default();
        for layer in layers {
            let map = match blob::map_of(&self.layout.layers(), layer) {
                Ok(Some(map)) => map,
                Ok(None) => continue,
                Err(cause) => {
                    borrowed.unknown = Some((*layer, cause));
                    continue;
                }
            };
            let donors: Vec<DiffId> = map.donors().collect();
            for run in map.runs() {
                let Some(donor) = run.donor.checked_sub(1).and_then(|number| donors.get(number)) else { continue };
                let needed = borrowed.donors.entry(*donor).or_default();
                let range = run.donor_range();
                needed.parts.push(range.start / BLOCK * BLOCK..range.end.next_multiple_of(BLOCK));
                *needed.by.entry(*layer).or_default() += run.length;
            }
        }
        borrowed
    }

    /// Returns what to do with a layer that is garbage except for what others need; `None` if there is nothing to do.
    pub(super) fn remnant(&self, layer: DiffId, needed: &Needed) -> Option<Remnant> {
        let directory = self.layout.layer(&layer);
        let lent = self.lent(&layer)?;
        let kept = disk_bytes(&lent);
        let parts = needed.parts();
        let wanted: u64 = parts.iter().map(|part| part.end - part.start).sum();
        let spared = kept.saturating_sub(wanted);
        let copied = (spared >= WORTH_COPYING.max(kept / 4)).then_some(parts);
        let others: Vec<_> = NAMES.map(|name| directory.join(name)).into_iter().filter(|path| *path != lent).collect();
        if copied.is_none() && !others.iter().any(|path| path.exists()) && lent.ends_with(REMNANT) {
            return None;
        }
        let others: u64 = others.iter().map(|path| disk_bytes(path)).sum();
        let frees = others + if copied.is_some() { spared } else { 0 };
        Some(Remnant { layer, copied, frees })
    }

    /// Returns the file of a layer that has everything its borrowers need. The order is the one in which they look.
    fn lent(&self, layer: &DiffId) -> Option<PathBuf> {
        let paths = [WHOLE, REMNANT, THIN].map(|name| self.layout.layer(layer).join(name));
        paths.into_iter().find(|path| path.is_file())
    }

    /// Turns a layer into a remnant. Nothing can use the layer from then on. The caller holds the lock exclusively, and
    /// also sets aside the returned files.
    pub(super) fn keep_remnant(&self, remnant: &Remnant) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.layout.layer(&remnant.layer);
        let path = directory.join(REMNANT);
        if let Some(lent) = self.lent(&remnant.layer).filter(|lent| *lent != path) {
            fs::rename(&lent, &path).map_err(StoreError::io(&path))?;
            fault::point(FaultPoint::RemnantKept);
        }
        let others = NAMES.map(|name| directory.join(name)).into_iter();
        Ok(others.filter(|other| *other != path && other.exists()).collect())
    }

    /// Replaces a remnant with a copy of its needed parts. No lock is held while copying: if a layer that was added in
    /// the meantime needs more of the remnant, the remnant stays as it is.
    pub(super) fn trim(&self, remnant: &Remnant) -> Result<(), StoreError> {
        let Some(parts) = &remnant.copied else { return Ok(()) };
        let path = self.layout.layer(&remnant.layer).join(REMNANT);
        let staging = self.staging()?;
        let made = staging.path().join(REMNANT);
        let source = match regular::open(&path) {
            // Another collection found that it is no longer needed.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            source => source.map_err(StoreError::io(&path))?,
        };
        copy_parts(&source, &made, parts).map_err(StoreError::io(&path))?;
        fault::point(FaultPoint::RemnantCopied);
        let _exclusive = self.exclusive_lock()?;
        if !lock::is_at(&source, &path) || !self.suffices(&remnant.layer, parts)? {
            return Ok(());
        }
        fs::rename(&made, &path).map_err(StoreError::io(&path))?;
        fault::point(FaultPoint::RemnantTrimmed);
        path.parent().map_or(Ok(()), durable::sync_directory)
    }

    /// Whether these parts contain everything that any layer needs of a remnant. The caller holds the lock exclusively.
    ///
    /// Every layer of the store counts, not only those that are reachable: a layer that is not needed at the moment may
    /// be needed again before it is collected. A new layer that is about to borrow borrows from a layer, not from a
    /// remnant.
    fn suffices(&self, layer: &DiffId, parts: &[Range<u64>]) -> Result<bool, StoreError> {
        if self.layout.tar(layer).is_some() {
            return Ok(false);
        }
        let borrowed = self.borrowed(self.stored_layers()?.iter());
        let needed = borrowed.donors.get(layer).map(Needed::parts).unwrap_or_default();
        let is_copied = |need: &Range<u64>| parts.iter().any(|part| part.start <= need.start && need.end <= part.end);
        Ok(borrowed.unknown.is_none() && needed.iter().all(is_copied))
    }
}

/// Makes a file of the same length with these parts of `source` and holes elsewhere, and waits until it is on the disk.
fn copy_parts(source: &File, to: &Path, parts: &[Range<u64>]) -> io::Result<()> {
    let length = source.metadata()?.len();
    let copy = regular::create(to)?;
    copy.set_len(length)?;
    let mut piece = vec![0; PIECE];
    for part in parts {
        let mut at = part.start;
        while at < part.end.min(length) {
            let wanted = usize::try_from(part.end.min(length) - at).map_or(PIECE, |left| left.min(PIECE));
            let piece = piece.get_mut(..wanted).unwrap_or_default();
            source.read_exact_at(piece, at)?;
            copy.write_all_at(piece, at)?;
            at += wanted as u64;
        }
    }
    copy.sync_all()
}
