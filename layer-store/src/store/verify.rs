//! Verifies that blobs have the digests of their names.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::handle::Store;
use super::layers::Layers;
use crate::error::StoreError;
use crate::layer::LayerIndex;
use crate::sharing::map::SharingMap;
use crate::sharing::{BlobReader, blob};
use crate::view::ViewLayer;
use crate::{DiffId, Digest, Kind, Observer};

/// What is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The layer.
    pub layer: DiffId,
    /// Paths of files in it whose content has changed, lossy if they are not UTF-8. Empty if the damage is in the tar's
    /// headers or padding, on which no file's content depends.
    pub paths: Vec<String>,
    /// What is wrong.
    pub cause: String,
    /// Whether the whole layer is missing.
    pub missing: bool,
}

/// Bytes read at once.
const PIECE: usize = 1 << 20;

impl Layers<'_> {
    /// Returns the layers that this one borrows content from and that are in the store. They are kept until this
    /// `Store` is dropped: otherwise a collection could turn them into remnants before the caller looks at them.
    #[must_use]
    pub fn donors(&self, layer: &DiffId) -> Vec<DiffId> {
        let home = self.store.home(layer);
        let map = blob::map_of(&home.layout.layers(), layer).ok().flatten();
        let donors: Vec<_> = map.iter().flat_map(SharingMap::donors).collect();
        let is_held = |donor: &DiffId| home.hold_own([donor], &[]).is_ok_and(|missing| missing.is_empty());
        donors.into_iter().filter(is_held).collect()
    }

    /// Reads a layer's blob and verifies its digest. Returns `None` if it is intact; a missing layer is damage too.
    /// `observer` is told how many bytes are read.
    ///
    /// Fails if the blob cannot be opened.
    pub fn verify(&self, layer: &DiffId, observer: &dyn Observer) -> Result<Option<Damage>, StoreError> {
        let home = self.store.home(layer);
        if !std::ptr::eq(home, self.store) {
            return home.layers().verify(layer, observer);
        }
        let damage = |paths, cause, missing| Ok(Some(Damage { layer: *layer, paths, cause, missing }));
        if !home.has_own_layer(layer)
            && let Err(StoreError::Untrusted { cause, .. }) = self.store.hold_layer(layer)
        {
            return damage(Vec::new(), cause, false);
        }
        let blob = match self.store.open_blob(layer) {
            Ok(blob) => blob,
            Err(StoreError::NoSuchLayer(_)) => {
                return damage(Vec::new(), "it is not in the store".to_owned(), true);
            }
            Err(StoreError::DamagedLayer { cause, .. }) => return damage(Vec::new(), cause, false),
            Err(error) => return Err(error),
        };
        let mut goes_on = |bytes| {
            observer.progress(bytes);
            !observer.cancelled()
        };
        let cause = match digest_of(&mut blob.reader(), &mut goes_on) {
            _ if observer.cancelled() => return Err(StoreError::Cancelled),
            Ok(actual) if actual == layer.0 => return Ok(None),
            Ok(actual) => format!("its digest is {actual}"),
            Err(error) => error.to_string(),
        };
        // Without a valid index it is not known which files are affected.
        let paths = self.store.sound_index(layer).and_then(|_| self.store.view_layer(layer).ok());
        let paths = paths.map(|layer| damaged_files(&layer)).unwrap_or_default();
        damage(paths, cause, false)
    }
}

impl Store {
    /// Returns the existing index. Never rebuilds it: an index of a damaged blob would describe the damage.
    fn sound_index(&self, layer: &DiffId) -> Option<LayerIndex> {
        super::layers::open_index(&self.layout.layer_index(layer), layer).ok()
    }
}

/// Computes the digest of a tar. `goes_on` is told how many bytes were read, and ends the reading by returning false.
fn digest_of(blob: &mut BlobReader<'_>, goes_on: &mut dyn FnMut(u64) -> bool) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        let length = blob.read(&mut piece)?;
        match length {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            _ => hasher.update(piece.get(..length).unwrap_or_default()),
        }
        if !goes_on(length as u64) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

/// Returns every file of a layer whose content does not match its hash in the index.
fn damaged_files(layer: &ViewLayer) -> Vec<String> {
    let index = &layer.index;
    let files = (0u32..).zip(index.inodes()).filter(|(_, inode)| inode.kind() == Kind::Regular);
    files
        .filter(|(number, _)| !layer.content_is_sound(*number).unwrap_or(false))
        .map(|(number, _)| index.path_of(number))
        .collect()
}

impl ViewLayer {
    /// Whether a regular file's stored content matches its hash in the index.
    pub(crate) fn content_is_sound(&self, number: u32) -> io::Result<bool> {
        let Some(inode) = self.index.inode(number) else { return Ok(false) };
        if inode.size.get() == 0 {
            return Ok(true);
        }
        let mut hasher = Xxh3::new();
        let mut piece = vec![0; PIECE];
        Self::each_stored_run(self.index.segments(inode), inode.size.get(), |mut offset, mut left| {
            while left > 0 {
                let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                let part = piece.get_mut(..wanted).unwrap_or_default();
                self.blob.read_exact_at(part, offset)?;
                hasher.update(part);
                offset += wanted as u64;
                left -= wanted as u64;
            }
            Ok(())
        })?;
        Ok(hasher.digest128().to_le_bytes() == inode.content_hash)
    }
}
