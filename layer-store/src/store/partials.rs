//! Parts of layers whose transfer ended early: how long a collection keeps them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::disk::{digest, list_if_there};
use super::handle::Store;
use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::oci::partial;
use crate::regular;

/// How long a part is kept after its last byte arrived. If a transfer is tried again, that is usually within a day.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Returns the directory for parts of layers, and for notes about uploads that ended early.
    pub(crate) fn partials(&self) -> PathBuf {
        self.layout.partials()
    }

    /// Returns the parts that no transfer is likely to continue.
    pub(super) fn stale_partials(&self) -> Result<Vec<PathBuf>, StoreError> {
        let all = list_if_there(&self.layout.partials())?;
        Ok(all.into_iter().filter(|path| self.is_stale(path) && !partial::is_in_use(path)).collect())
    }

    fn is_stale(&self, path: &Path) -> bool {
        let is_complete = digest(path).is_none_or(|digest| self.was_added(&digest));
        let written = path.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
        is_complete || age.is_some_and(|age| age > KEPT)
    }

    /// Whether the layer with these compressed bytes is in this store. Takes no lease, because a collection holds the lock
    /// that a new lease waits for.
    fn was_added(&self, compressed: &Digest) -> bool {
        let noted = regular::read_text(&self.layout.compressed(compressed), regular::NOTE_MAX).ok();
        let layer = noted.and_then(|text| text.trim_end().parse::<DiffId>().ok());
        layer.is_some_and(|layer| self.layout.tar(&layer).is_some())
    }
}
