//! Parts of layers whose transfer ended early: how long they are kept, and how much space they use.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::disk::{digest, list_if_there};
use super::handle::Store;
use crate::error::StoreError;
use crate::oci::partial;

/// How long a part is kept after its last byte arrived. A transfer that is tried again usually is within a day.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Returns the parts that no transfer is likely to continue.
    pub(super) fn stale_partials(&self) -> Result<Vec<PathBuf>, StoreError> {
        let all = list_if_there(&self.layout.partials())?;
        Ok(all.into_iter().filter(|path| self.is_stale(path) && !partial::is_in_use(path)).collect())
    }

    fn is_stale(&self, path: &Path) -> bool {
        let is_complete = digest(path).is_none_or(|digest| self.layers().by_compressed(&digest).is_some());
        let written = path.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
        is_complete || age.is_some_and(|age| age > KEPT)
    }
}
