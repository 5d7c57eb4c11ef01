//! Unpacks a view into a real directory, for tools that need one.
//!
//! The tree is made in a private directory next to its place and then renamed, so a failure leaves nothing. Names from
//! the image are only used one at a time, relative to a directory that was just made, so no path from an image is
//! resolved on the host.
//!
//! The kernel copies content. On file systems with reflinks, content at a multiple of 4 KiB in a blob shares its
//! blocks.
//!
//! This is only for Linux, because it makes device nodes and syncs whole file systems.

mod equal;
mod inode;
mod tree;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::fault::{self, FaultPoint};
use crate::lease::unique_name;
use crate::remove::remove_tree;
use crate::space::Shortage;
use crate::{CopyError, Observer, View, ViewError};

/// Options for unpacking a view.
#[derive(Clone, Debug, Default)]
pub struct MaterializeOptions {
    /// Do not set the owners of files, which needs no privileges. Everything that depends on owners is left out and
    /// counted: device nodes, set-user-ID and set-group-ID bits, and extended attributes outside `user.`.
    pub without_owners: bool,
    /// Keep what could give another user of the host privileges: set-user-ID and set-group-ID bits, device nodes, and
    /// attributes of the kernel (`security.`, `trusted.`), such as capabilities of programs. Only with owners, and only in
    /// a directory that nobody else can enter. Otherwise they are left out and counted.
    pub with_privileges: bool,
    /// Make regular files that are equal in content, owner, mode, time and attributes one file with several names.
    pub link_equal: bool,
    /// Link to the file at the same path below this directory if it is equal in the same way.
    pub link_to: Option<PathBuf>,
}

impl MaterializeOptions {
    /// Whether privileges are kept.
    fn keeps_privileges(&self) -> bool {
        self.with_privileges && !self.without_owners
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Materialized {
    /// The number of names made, including the root.
    pub entries: u64,
    /// Bytes of content copied or shared with blobs.
    pub bytes: u64,
    /// Files that became links to equal ones.
    pub linked: u64,
    /// Device nodes left out.
    pub devices_left_out: u64,
    /// Extended attributes left out.
    pub xattrs_left_out: u64,
    /// Files and directories whose set-user-ID or set-group-ID bit was left out.
    pub set_ids_left_out: u64,
}

/// Why a view could not be unpacked. Nothing is left in its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterializeError {
    /// The directory exists and is not empty.
    #[error("{0} is not empty; give a new directory")]
    NotEmpty(PathBuf),
    /// Privileges are to be kept where other users could use them.
    #[error("{0}: other users can enter it, and could use the privileges of programs and devices in it")]
    Exposed(PathBuf),
    /// The view cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The host refused an operation.
    #[error("{path}: {cause}")]
    Host {
        /// Its path in the tree, lossy where it is not UTF-8; or a path of the host.
        path: String,
        /// The error of the host.
        #[source]
        cause: io::Error,
    },
    /// The tree does not fit on the disk.
    #[error(
        "{directory}: {cause}, at {path}: the tree takes about {} bytes (in addition to what was written of it, {}); make space, or free some with `lamina rmi` and `lamina gc`",
        shortage.needed,
        shortage.free.as_deref().unwrap_or("too little is free")
    )]
    NoSpace {
        /// The directory for the tree.
        directory: PathBuf,
        /// The path in the tree that did not fit.
        path: String,
        /// The error of the host.
        #[source]
        cause: io::Error,
        /// How much space is needed: the bytes of all layers, including those that upper layers delete.
        shortage: Shortage,
    },
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl MaterializeError {
    fn host(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |cause| Self::Host { path: path.display().to_string(), cause }
    }

    /// Converts a failure in the private directory `staging` into one about `directory`, before everything is removed.
    fn in_place_of(self, staging: &Path, directory: &Path, needed: u64) -> Self {
        match self {
            Self::Host { path, cause } => match Shortage::measure(&cause, staging, needed) {
                Some(shortage) => Self::NoSpace { directory: directory.to_owned(), path, cause, shortage },
                None if Path::new(&path).starts_with(staging) => Self::host(directory)(cause),
                None => Self::Host { path, cause },
            },
            error => error,
        }
    }

    fn of_copy(path: impl FnOnce() -> String) -> impl FnOnce(CopyError) -> Self {
        |error| match error {
            CopyError::View(error) => Self::View(error),
            CopyError::Write(cause) => Self::Host { path: path(), cause },
        }
    }
}

impl View {
    /// Unpacks the whole view to `directory`, which must be new or empty. `observer` is told how many bytes of content
    /// are written.
    ///
    /// Fails if the view cannot be read, if the host refuses an operation, or if it is cancelled.
    pub fn materialize(
        &self,
        directory: &Path,
        options: &MaterializeOptions,
        observer: &dyn Observer,
    ) -> Result<Materialized, MaterializeError> {
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(MaterializeError::NotEmpty(directory.to_owned()));
        }
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(MaterializeError::host(parent))?;
        if options.keeps_privileges() && !is_closed(parent).map_err(MaterializeError::host(parent))? {
            return Err(MaterializeError::Exposed(parent.to_owned()));
        }
        let staging = tempfile::Builder::new().prefix(".lamina-materialize-").tempdir_in(parent);
        // The original error names the private directory, which means nothing to a user.
        let staging = staging.map_err(|cause| MaterializeError::host(parent)(cause.kind().into()))?;
        let staging = Staging(staging.keep());
        let made = tree::make(self, &staging.0, options, observer)
            .map_err(|error| error.in_place_of(&staging.0, directory, self.totals().bytes))?;
        // A rename may replace an empty directory.
        let renamed = rename_whole(&staging.0.join(tree::TREE), directory, FaultPoint::TreeBeside);
        renamed.map_err(MaterializeError::host(directory))?;
        Ok(made)
    }
}

/// Returns whether `directory` is, or is below, a directory of this user or of root that no other user can enter.
fn is_closed(directory: &Path) -> io::Result<bool> {
    let us = rustix::process::geteuid().as_raw();
    for path in directory.canonicalize()?.ancestors() {
        let found = fs::symlink_metadata(path)?;
        if found.mode() & 0o011 == 0 && [us, 0].contains(&found.uid()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Renames a directory even if its mode does not allow writing. Moving a directory into another one changes its `..`,
/// which its owner can only do while it is writable. So it is first made writable and moved to a temporary name next to
/// its place, then gets its mode back, and is then renamed within the same directory, which changes no `..`.
pub(crate) fn rename_whole(from: &Path, to: &Path, beside_it: FaultPoint) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            let mode = rustix::fs::Mode::from_raw_mode(rustix::fs::stat(from)?.st_mode);
            let beside = to.with_file_name(format!("{BESIDE}{}", unique_name()));
            rustix::fs::chmod(from, rustix::fs::Mode::RWXU)?;
            fs::rename(from, &beside)?;
            fault::point(beside_it);
            let named =
                rustix::fs::chmod(&beside, mode).map_err(io::Error::from).and_then(|()| fs::rename(&beside, to));
            named.inspect_err(|_| drop(remove_tree(&beside)))
        }
        outcome => outcome,
    }
}

/// Removes what a process left next to `to` when it was killed while renaming. No other process may be making `to`.
pub(crate) fn remove_left_beside(to: &Path) {
    let entries = to.parent().and_then(|parent| fs::read_dir(parent).ok());
    let is_left = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(BESIDE.as_bytes());
    for left in entries.into_iter().flatten().flatten().filter(is_left) {
        // What cannot be removed is removed later with the directory.
        let _ = remove_tree(&left.path());
    }
}

/// The prefix of the temporary name of a directory that is about to be renamed.
const BESIDE: &str = ".lamina-tree-";

/// The private directory in which a tree is made. It is removed with everything that is left in it.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(cause) = remove_tree(&self.0) {
            tracing::warn!("{}: cannot be removed: {cause}", self.0.display());
        }
    }
}
