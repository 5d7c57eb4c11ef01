//! Block images: a base as one file that a kernel can mount, stored next to the base.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::bases::Bases;
use crate::erofs::{self, ErofsError, ErofsSummary};
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lock::FileLock;
use crate::regular;
use crate::{BaseId, Observer};

/// Why a block image cannot be made. No part of it is left on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockImageError {
    /// The store cannot open the base or store the image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image cannot be made.
    #[error(transparent)]
    Erofs(ErofsError),
}

impl Bases<'_> {
    /// Returns the path of the EROFS image of a base, and makes it first if it does not exist. It is kept as long as
    /// the base. If several processes need it, one makes it and the others wait. `observer` is told how many bytes of
    /// content are written.
    ///
    /// The content of every file is verified while it is written.
    pub fn block_image(&self, id: &BaseId, observer: &dyn Observer) -> Result<PathBuf, BlockImageError> {
        let place = self.store.layout.block_image(id);
        if is_whole(&place) {
            return Ok(place);
        }
        let lock = self.store.layout.lock(&format!("image-{id}"));
        let _lock = FileLock::wait(&lock, observer, &format!("makes the block image of base {id}"))?;
        if is_whole(&place) {
            return Ok(place);
        }
        let staging = self.store.staging()?;
        let path = staging.path().join("image");
        let file = regular::create(&path).map_err(StoreError::io(&path))?;
        self.write_block_image(id, (&path, &file), observer)?;
        // The content is not checked again before a guest reads it, so it must survive a power cut.
        file.sync_all().map_err(StoreError::io(&path))?;
        fault::point(FaultPoint::BlockImageStaged);
        fs::rename(&path, &place).map_err(StoreError::io(&place))?;
        self.remove_old_images(id);
        tracing::info!("made a block image of base {id}");
        Ok(place)
    }

    /// Writes the EROFS image of a base to an empty file. The path is only for messages. Equal bases have equal images.
    pub fn write_block_image(
        &self,
        id: &BaseId,
        (path, file): (&Path, &File),
        observer: &dyn Observer,
    ) -> Result<ErofsSummary, BlockImageError> {
        let view = self.open(id)?.verifying();
        view.write_erofs(file, id.uuid(), observer).map_err(|error| match error {
            ErofsError::Write(cause) => StoreError::io(path)(cause).into(),
            other => BlockImageError::Erofs(other),
        })
    }
}

/// Whether an image is complete: its length is the one in its superblock, whose checksum is right.
fn is_whole(path: &Path) -> bool {
    let length = |file: &File| Some(file.metadata().ok()?.len());
    regular::open(path)
        .is_ok_and(|file| erofs::described_length(&file).is_some_and(|bytes| length(&file) == Some(bytes)))
}
