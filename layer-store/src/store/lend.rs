//! Lends the content of stored layers to new ones.

use std::collections::HashSet;
use std::fs::{self, File};
use std::time::SystemTime;

use super::handle::Store;
use crate::DiffId;
use crate::error::StoreError;
use crate::mapped::IndexBytes;
use crate::sharing::contents::ContentTable;
use crate::sharing::map::Run;
use crate::sharing::{Candidate, Lender, blob};

/// The most layers that are searched for content of a new layer: those that were added last.
const CANDIDATES_MAX: usize = 128;

impl Lender for Store {
    fn candidates(&self, seen: &HashSet<DiffId>) -> Result<Vec<Candidate>, StoreError> {
        let mut found: Vec<(SystemTime, DiffId)> = Vec::new();
        for layer in self.stored_layers()? {
            if seen.contains(&layer) {
                continue;
            }
            let table = fs::metadata(self.layout.contents(&layer)).and_then(|table| table.modified());
            found.extend(table.ok().map(|came| (came, layer)));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(CANDIDATES_MAX);
        let open = |layer: DiffId| {
            let bytes = IndexBytes::open(&self.layout.contents(&layer)).ok()?;
            Some(Candidate { layer, table: ContentTable::open(bytes).ok()? })
        };
        Ok(found.into_iter().filter_map(|(_, layer)| open(layer)).collect())
    }

    // Only layers of this store lend content, because another store would not know about the borrower. The same layer
    // may be whole in another store while only a remnant, which no lease keeps, is left here.
    fn open_donor(&self, donor: &DiffId, runs: &[Run]) -> Option<File> {
        if !self.hold_own([donor], &[]).ok()?.is_empty() {
            return None;
        }
        let needed: Vec<_> = runs.iter().map(Run::donor_range).collect();
        let opened = blob::open_donor(&self.layout.layers(), donor, &needed);
        opened.inspect_err(|cause| tracing::info!("not shared: {cause}")).ok()
    }
}
