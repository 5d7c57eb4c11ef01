//! What a view cannot answer, as an error number.

use super::Server;
use crate::report;
use layer_store::{Ino, Kind, ViewError};
use rustix::io::Errno;

impl Server {
    /// The error number for `error`; damage is logged with layer and path.
    pub(super) fn errno(&self, error: &ViewError) -> Errno {
        match error {
            ViewError::NoSuchInode(_) => Errno::STALE,
            ViewError::NotDirectory(_) => Errno::NOTDIR,
            ViewError::NotRegular(ino) if self.is_directory(*ino) => Errno::ISDIR,
            ViewError::NotRegular(_) | ViewError::NotSymlink(_) => Errno::INVAL,
            ViewError::Damaged { layer, path, cause } => {
                report(self.stats.record_damage(), "damaged content", || {
                    tracing::error!(%layer, %path, %cause, "damaged content");
                });
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
