//! Errors: which number the kernel gets, and what is logged.

use super::Server;
use layer_store::{Ino, Kind, ViewError};
use rustix::io::Errno;
use std::cmp::Ordering;

/// How many events of one kind are logged.
const REPORTS: u64 = 100;

/// Calls `log` if fewer than 100 events of its kind were `seen` before, and logs after those that further ones of
/// `what` are not logged. A reader in a loop can cause as many as it likes, and must not fill the disk. The counters in
/// [`crate::stats`] go on.
pub fn report(seen: u64, what: &str, log: impl FnOnce()) {
    match seen.cmp(&REPORTS) {
        Ordering::Less => log(),
        Ordering::Equal => tracing::error!("{what}: further ones are not logged"),
        Ordering::Greater => {}
    }
}

impl Server {
    /// Returns the error number for `error`. Damage is logged with its layer and path.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_repeats_is_logged_a_hundred_times() {
        let mut logged = 0;
        (0..10 * REPORTS).for_each(|seen| report(seen, "a loop", || logged += 1));
        assert_eq!(logged, REPORTS);
    }
}
