//! A directory to mount on.

use super::error::MountError;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// A directory that can be mounted on, by its absolute path.
#[derive(Clone, Debug)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// Checks that `path` is an empty directory.
    ///
    /// # Errors
    /// [`MountError::Missing`], [`MountError::NotDirectory`], [`MountError::NotEmpty`], [`MountError::Dead`] or
    /// [`MountError::Unreadable`].
    pub fn new(path: &Path) -> Result<Self, MountError> {
        let failed = |source: io::Error| match Errno::from_io_error(&source) {
            Some(Errno::NOENT) => MountError::Missing(path.to_owned()),
            Some(Errno::NOTDIR) => MountError::NotDirectory(path.to_owned()),
            Some(Errno::NOTCONN) => MountError::Dead(path.to_owned()),
            _ => MountError::Unreadable { path: path.to_owned(), source },
        };
        let absolute = path.canonicalize().map_err(failed)?;
        match absolute.read_dir().map_err(failed)?.next() {
            None => Ok(Self(absolute)),
            Some(_) => Err(MountError::NotEmpty(path.to_owned())),
        }
    }

    /// Returns the absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}
