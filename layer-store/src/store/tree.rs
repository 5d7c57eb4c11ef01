//! Trees: a base as a real directory, stored next to the base.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::bases::Bases;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lock::FileLock;
use crate::materialize::{MaterializeError, MaterializeOptions, Materialized};
use crate::remove::remove_tree;
use crate::{BaseId, Observer};

/// Why a tree cannot be made. No part of it is left on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The store cannot open the base or store the tree.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree cannot be made.
    #[error(transparent)]
    Materialize(#[from] MaterializeError),
}

/// Removes a tree that other users can enter. What cannot be removed, as by a user who does not own it, stays.
fn remove_open_tree(tree: &Path) {
    if tree.is_dir()
        && let Err(error) = remove_tree(tree)
    {
        tracing::warn!("{}: other users can enter it, and it cannot be removed: {error}", tree.display());
    }
}

impl Bases<'_> {
    /// Returns the directory of a base, and makes it first if it does not exist; also returns what was made by this
    /// call, if anything. The directory is kept as long as the base, and must not be written to. If several processes
    /// need it, one makes it and the others wait.
    pub fn tree(
        &self,
        id: &BaseId,
        without_owners: bool,
        observer: &dyn Observer,
    ) -> Result<(PathBuf, Option<Materialized>), TreeError> {
        let place = self.store.layout.tree(id, without_owners);
        if !without_owners {
            remove_open_tree(&self.store.layout.open_tree(id));
        }
        if place.is_dir() {
            return Ok((place, None));
        }
        let _lock =
            FileLock::wait(&self.store.layout.lock(&format!("tree-{id}")), observer, &format!("unpacks base {id}"))?;
        if place.is_dir() {
            return Ok((place, None));
        }
        crate::materialize::remove_left_beside(&place);
        let view = self.open(id)?.verifying();
        let staging = self.store.staging()?;
        let tree = staging.path().join("tree");
        // The staging directory and the tree's own are closed to other users.
        let options =
            MaterializeOptions { without_owners, with_privileges: !without_owners, ..MaterializeOptions::default() };
        let made = view.materialize(&tree, &options, observer)?;
        // The content is not checked again before a guest reads it, so it must survive a power cut.
        let synced =
            fs::File::open(self.store.layout.base(id).join("recipe")).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
        synced.map_err(StoreError::io(&place))?;
        fault::point(FaultPoint::TreeStaged);
        if !without_owners && let Some(closed) = place.parent() {
            let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(closed);
            let only_ours = fs::Permissions::from_mode(0o700);
            made.and_then(|()| fs::set_permissions(closed, only_ours)).map_err(StoreError::io(closed))?;
        }
        crate::materialize::rename_whole(&tree, &place, FaultPoint::TreeBesideBase).map_err(StoreError::io(&place))?;
        tracing::info!("unpacked base {id}");
        Ok((place, Some(made)))
    }
}
