//! Finds what a layer that comes in has in common with those that are there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use super::Store;
use super::error::StoreError;
use crate::DiffId;
use crate::fault::{self, FaultPoint};
use crate::mapped::IndexBytes;
use crate::sharing::choose::Choice;
use crate::sharing::contents::{self, ContentTable};
use crate::sharing::map::Run;
use crate::sharing::{Content, blob, thin};

/// The most layers that are looked through for one that comes in: those that came last.
const CANDIDATES_MAX: usize = 128;

/// A layer that may give content.
struct Candidate {
    layer: DiffId,
    table: ContentTable,
}

/// What a layer that comes in shares with others.
pub(crate) struct NewLayer<'store> {
    /// Where to look for content of it, if anywhere.
    store: Option<&'store Store>,
    directory: &'store Path,
    layer: DiffId,
    length: u64,
    choice: Choice,
    /// Layers that were looked through.
    seen: HashSet<DiffId>,
}

impl<'store> NewLayer<'store> {
    /// A layer whose tar is whole in `directory`.
    pub(crate) fn new(
        store: Option<&'store Store>,
        directory: &'store Path,
        layer: DiffId,
        length: u64,
        contents: Vec<Content>,
    ) -> Self {
        Self { store, directory, layer, length, choice: Choice::new(contents), seen: HashSet::new() }
    }

    /// Whether its tar has holes.
    pub(super) fn is_thin(&self) -> bool {
        !self.choice.is_whole()
    }

    /// Makes holes for what layers have that are in the store and were not looked through before. `file` is its tar,
    /// open for reading and writing; says whether it has to be synced again.
    pub(crate) fn share(&mut self, file: &File) -> bool {
        let Some(store) = self.store.filter(|_| self.choice.has_contents()) else { return false };
        let candidates = self.candidates(store).unwrap_or_else(|error| {
            tracing::info!("not shared: {error}");
            Vec::new()
        });
        let is_first = self.seen.insert(self.layer);
        self.seen.extend(candidates.iter().map(|candidate| candidate.layer));
        let mut choice = self.choice.clone();
        let mut fresh = Vec::new();
        while let Some((place, runs)) = choice.best(candidates.iter().map(|candidate| &candidate.table)) {
            let Some(donor) = candidates.get(place).map(|candidate| candidate.layer) else { break };
            fault::point(FaultPoint::DonorChosen);
            let opened = store.open_donor(&donor, &runs);
            let runs = opened.map(|donor| thin::compared(file, &donor, runs)).unwrap_or_default();
            if runs.is_empty() {
                // Its table lies: without it the search would go on for ever.
                break;
            }
            fresh.extend_from_slice(&runs);
            choice.take(Some(donor), runs);
        }
        if is_first {
            let runs = thin::compared(file, file, choice.repeated());
            fresh.extend_from_slice(&runs);
            choice.take(None, runs);
        }
        if fresh.is_empty() || !thin::make(self.directory, file, &self.layer, self.length, &choice, &fresh) {
            return false;
        }
        self.choice = choice;
        true
    }

    /// The layers that came last, but for those that were looked through.
    fn candidates(&self, store: &Store) -> Result<Vec<Candidate>, StoreError> {
        let mut found: Vec<(SystemTime, DiffId)> = Vec::new();
        for layer in store.stored_layers()? {
            if self.seen.contains(&layer) {
                continue;
            }
            let table = fs::metadata(store.layout.contents(&layer)).and_then(|table| table.modified());
            found.extend(table.ok().map(|came| (came, layer)));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(CANDIDATES_MAX);
        let open = |layer: DiffId| {
            let bytes = File::open(store.layout.contents(&layer)).and_then(|file| IndexBytes::map(&file)).ok()?;
            Some(Candidate { layer, table: ContentTable::open(bytes).ok()? })
        };
        Ok(found.into_iter().filter_map(|(_, layer)| open(layer)).collect())
    }

    /// Writes the table of contents. It is a cache: that it cannot be written is no reason to fail.
    pub(super) fn write_contents(&self) {
        let path = self.directory.join("contents");
        let written = contents::write(&self.choice.held()).and_then(|bytes| fs::write(&path, bytes));
        if let Err(cause) = written {
            tracing::info!("{}: {cause}", path.display());
            let _ = fs::remove_file(&path);
        }
    }
}

impl Store {
    /// Opens a layer to borrow from it; it stays from now on for as long as this `Store` does, and after that for
    /// as long as the layer that borrows from it.
    ///
    /// Of this store, which alone has its borrowers: the same layer of another one may be whole where here only a rest is
    /// left, which no lease keeps.
    fn open_donor(&self, donor: &DiffId, runs: &[Run]) -> Option<File> {
        if !self.hold_own([donor], &[]).ok()?.is_empty() {
            return None;
        }
        let needed: Vec<_> = runs.iter().map(Run::donor_range).collect();
        let opened = blob::open_donor(&self.layout.layers(), donor, &needed);
        opened.inspect_err(|cause| tracing::info!("not shared: {cause}")).ok()
    }
}
