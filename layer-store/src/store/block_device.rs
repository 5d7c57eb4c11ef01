//! Block devices: a base as a disk that stores nothing but metadata, which is kept next to the base.

use std::fs;
use std::io::{BufWriter, Cursor};
use std::path::Path;
use std::sync::Arc;

use super::bases::Bases;
use super::block_image::BlockImageError;
use crate::erofs::map::{self, BlockMap};
use crate::erofs::{BlockDevice, ErofsError};
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lock::FileLock;
use crate::mapped::IndexBytes;
use crate::regular;
use crate::{BaseId, Observer, View};

impl Bases<'_> {
    /// Returns a base as a read-only block device with an EROFS file system. `view` is that base, opened.
    ///
    /// The file system's metadata is made once for a base and kept as long as the base; it is made again if it is
    /// damaged. If several processes need it, one makes it and the others wait. If this process may not write the store, it
    /// is only in memory. The device has the bytes of the base's block image.
    pub fn block_device(
        &self,
        id: &BaseId,
        view: Arc<View>,
        observer: &dyn Observer,
    ) -> Result<BlockDevice, BlockImageError> {
        let place = self.store.layout.block_map(id);
        let map = match open(&place, &view) {
            Ok(map) => map,
            Err(cause) => {
                tracing::debug!("base {id}: making the metadata of its block device: {cause}");
                match self.make_map(id, &view, &place, observer) {
                    Err(BlockImageError::Store(error)) if error.is_closed() => in_memory(id, &view, observer)?,
                    made => made?,
                }
            }
        };
        Ok(BlockDevice::new(view, map))
    }

    /// Makes the map of a base's device, unless another process has made it in the meantime. A damaged one, which it
    /// replaces, may exist; a process that has it open keeps it.
    fn make_map(
        &self,
        id: &BaseId,
        view: &View,
        place: &Path,
        observer: &dyn Observer,
    ) -> Result<BlockMap, BlockImageError> {
        let lock = self.store.layout.lock(&format!("image-{id}"));
        let _lock = FileLock::wait(&lock, observer, &format!("makes the block device of base {id}"))?;
        if let Ok(map) = open(place, view) {
            return Ok(map);
        }
        let staging = self.store.staging()?;
        let path = staging.path().join("map");
        let file = BufWriter::with_capacity(256 << 10, regular::create(&path).map_err(StoreError::io(&path))?);
        map::write(view, id.uuid(), file, observer).map_err(|error| match error {
            ErofsError::Write(cause) => {
                StoreError::write(&path, fs::metadata(&path).map_or(0, |made| made.len()), cause).into()
            }
            other => BlockImageError::Erofs(other),
        })?;
        fault::point(FaultPoint::BlockImageStaged);
        // It is a cache with a checksum, so it is not synced.
        fs::rename(&path, place).map_err(StoreError::io(place))?;
        self.remove_old_images(id);
        tracing::info!("made the metadata of the block device of base {id}");
        open(place, view).map_err(|cause| StoreError::io(place)(std::io::Error::other(cause)).into())
    }

    /// Removes the images and maps of earlier versions, which nothing opens any more.
    pub(super) fn remove_old_images(&self, id: &BaseId) {
        for old in self.store.layout.old_block_images(id) {
            match fs::remove_file(&old) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("{}: an image of an earlier version cannot be removed: {cause}", old.display());
                }
                _ => {}
            }
        }
    }
}

fn open(place: &Path, view: &View) -> Result<BlockMap, String> {
    let bytes = IndexBytes::open(place).map_err(|cause| cause.to_string())?;
    BlockMap::open(bytes, view).map_err(|cause| cause.to_string())
}

fn in_memory(id: &BaseId, view: &View, observer: &dyn Observer) -> Result<BlockMap, BlockImageError> {
    let made = map::write(view, id.uuid(), Cursor::new(Vec::new()), observer).map_err(BlockImageError::Erofs)?;
    let unusable = |cause| BlockImageError::Erofs(ErofsError::Write(std::io::Error::other(cause)));
    BlockMap::open(IndexBytes::Owned(made.into_inner()), view).map_err(unusable)
}
