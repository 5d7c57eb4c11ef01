//! Finds the content that a new layer has in common with layers in the store.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;

use super::choose::Choice;
use super::contents::{self, Content, ContentTable};
use super::map::Run;
use super::thin;
use crate::DiffId;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::regular;

/// A layer that may lend content.
pub(crate) struct Candidate {
    pub(crate) layer: DiffId,
    pub(crate) table: ContentTable,
}

/// A source of layers from which a new layer may borrow content.
pub(crate) trait Lender {
    /// Returns the layers that were added last, without those in `seen`.
    fn candidates(&self, seen: &HashSet<DiffId>) -> Result<Vec<Candidate>, StoreError>;

    /// Opens a layer to borrow `runs` from it. The layer is then kept for as long as the lender exists, and after that
    /// for as long as the layer that borrows from it.
    fn open_donor(&self, donor: &DiffId, runs: &[Run]) -> Option<File>;
}

/// A new layer, and the content that it shares with others.
pub(crate) struct NewLayer<'a> {
    /// Where to look for its content, if anywhere.
    lender: Option<&'a dyn Lender>,
    directory: &'a Path,
    layer: DiffId,
    length: u64,
    choice: Choice,
    /// Layers that were already searched.
    seen: HashSet<DiffId>,
}

impl<'a> NewLayer<'a> {
    /// Takes a layer whose whole tar is in `directory`.
    pub(crate) fn new(
        lender: Option<&'a dyn Lender>,
        directory: &'a Path,
        layer: DiffId,
        length: u64,
        contents: Vec<Content>,
    ) -> Self {
        Self { lender, directory, layer, length, choice: Choice::new(contents), seen: HashSet::new() }
    }

    /// Whether its tar has holes.
    pub(crate) fn is_thin(&self) -> bool {
        !self.choice.is_whole()
    }

    /// Makes holes for content of layers in the store that were not searched before. `file` is the new layer's tar,
    /// open for reading and writing. Returns whether it has to be synced again.
    pub(crate) fn share(&mut self, file: &File) -> bool {
        let Some(lender) = self.lender.filter(|_| self.choice.has_contents()) else { return false };
        let candidates = lender.candidates(&self.seen).unwrap_or_else(|error| {
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
            let opened = lender.open_donor(&donor, &runs);
            let runs = opened.map(|donor| thin::compared(file, &donor, runs)).unwrap_or_default();
            if runs.is_empty() {
                // Its table is wrong; without this check the search would not end.
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

    /// Writes the table of contents. It is a cache, so an error is ignored.
    pub(crate) fn write_contents(&self) {
        let path = self.directory.join("contents");
        let written = contents::write(&self.choice.held()).and_then(|bytes| regular::write(&path, &bytes));
        if let Err(cause) = written {
            tracing::info!("{}: {cause}", path.display());
            let _ = fs::remove_file(&path);
        }
    }
}
