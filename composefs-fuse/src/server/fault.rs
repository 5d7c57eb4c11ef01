//! What a view cannot answer, as an error number.

use super::Server;
use layer_store::{Ino, Kind, ViewError};
use rustix::io::Errno;

/// How many damaged files are named in the log before it falls silent: a reader in a loop must not fill the disk.
const DAMAGE_REPORTS: u64 = 100;

impl Server {
    /// The error number for `error`; damage is logged with layer and path.
    pub(super) fn errno(&self, error: &ViewError) -> Errno {
        match error {
            ViewError::NoSuchInode(_) => Errno::STALE,
            ViewError::NotDirectory(_) => Errno::NOTDIR,
            ViewError::NotRegular(ino) if self.is_directory(*ino) => Errno::ISDIR,
            ViewError::NotRegular(_) | ViewError::NotSymlink(_) => Errno::INVAL,
            ViewError::Damaged { layer, path, cause } => {
                match self.stats.record_damage() {
                    seen if seen < DAMAGE_REPORTS => tracing::error!(%layer, %path, %cause, "damaged content"),
                    DAMAGE_REPORTS => tracing::error!("damaged content: no more of it will be logged"),
                    _ => {}
                }
                Errno::IO
            }
            other => {
                tracing::error!(error = %other, "the view cannot answer");
                Errno::IO
            }
        }
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.view.attr(ino).is_ok_and(|attr| attr.kind == Kind::Directory)
    }
}
