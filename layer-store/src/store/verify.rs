//! Proves that blobs are what their names say.

use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::Store;
use super::error::StoreError;
use crate::layer::LayerIndex;
use crate::registry;
use crate::view::ViewLayer;
use crate::{DiffId, Digest, Kind, Origin, Progress, PullError, PullOptions};

/// What is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The layer.
    pub layer: DiffId,
    /// Paths in it whose content is not what it was, lossy where they are not UTF-8. Empty where the damage is in
    /// the tar's headers or padding, which no file's content depends on.
    pub paths: Vec<String>,
    /// What was found.
    pub cause: String,
}

/// Why a layer cannot be repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// It was imported, or nobody kept where it came from.
    #[error("nobody knows a registry that layer {0} can be fetched from; remove the image and import it again")]
    NoSource(DiffId),
    /// The registry did not give it.
    #[error(transparent)]
    Fetch(Box<PullError>),
    /// The store could not keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Bytes read at once.
const PIECE: usize = 1 << 20;

impl Store {
    /// Reads a layer's blob and proves its digest. `None` where it is whole.
    ///
    /// Fails where the layer is not in the store.
    pub fn verify_layer(&self, layer: &DiffId) -> Result<Option<Damage>, StoreError> {
        let path = self.layout.blob(layer);
        let mut blob = File::open(&path).map_err(|_| StoreError::NoSuchLayer(*layer))?;
        let cause = match digest_of(&mut blob) {
            Ok(actual) if actual == layer.0 => return Ok(None),
            Ok(actual) => format!("its digest is {actual}"),
            Err(error) => error.to_string(),
        };
        // Without a sound index nobody knows whose content it is.
        let paths = self.sound_index(layer).and_then(|_| self.view_layer(layer).ok());
        let paths = paths.map(|layer| damaged_files(&layer)).unwrap_or_default();
        Ok(Some(Damage { layer: *layer, paths, cause }))
    }

    /// The index as it is, never made anew: a damaged blob would give an index of the damage.
    fn sound_index(&self, layer: &DiffId) -> Option<LayerIndex> {
        super::layers::open_index(&self.layout.layer_index(layer), layer).ok()
    }

    /// Fetches a damaged layer again from the registry that it came from, and puts it in the place of the damaged one.
    /// Running mounts keep what they have open. Where it cannot be had, the store is as it was.
    pub fn repair_layer(
        &self,
        layer: &DiffId,
        options: &PullOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), RepairError> {
        let sources = self.layer_sources(layer);
        let Some(source) = sources.iter().find(|source| matches!(source.origin, Origin::Registry { .. })) else {
            return Err(RepairError::NoSource(*layer));
        };
        let place = self.layout.layer(layer);
        let staging = self.staging()?;
        let aside = staging.path().join("damaged");
        fs::rename(&place, &aside).map_err(StoreError::io(&place))?;
        if let Err(error) = registry::fetch_layer(self, layer, source, options, progress) {
            fs::rename(&aside, &place).map_err(StoreError::io(&place))?;
            return Err(RepairError::Fetch(Box::new(error)));
        }
        for source in sources.iter().rev() {
            self.remember_source(layer, source)?;
        }
        Ok(())
    }
}

fn digest_of(blob: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match blob.read(&mut piece)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            length => hasher.update(piece.get(..length).unwrap_or_default()),
        }
    }
}

/// Every file of a layer whose content does not have the hash that the index keeps.
fn damaged_files(layer: &ViewLayer) -> Vec<String> {
    let index = &layer.index;
    let files = (0u32..).zip(index.inodes()).filter(|(_, inode)| inode.kind() == Kind::Regular);
    files
        .filter(|(number, _)| !layer.content_is_sound(*number).unwrap_or(false))
        .map(|(number, _)| index.path_of(number))
        .collect()
}

impl ViewLayer {
    /// Whether a regular file's stored content has the hash that the index keeps.
    pub(crate) fn content_is_sound(&self, number: u32) -> io::Result<bool> {
        let Some(inode) = self.index.inode(number) else { return Ok(false) };
        if inode.size.get() == 0 {
            return Ok(true);
        }
        let mut hasher = Xxh3::new();
        let mut piece = vec![0; PIECE];
        self.each_stored_run(self.index.segments(inode), inode.size.get(), |blob, mut offset, mut left| {
            while left > 0 {
                let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                let part = piece.get_mut(..wanted).unwrap_or_default();
                crate::content::read_all(blob, part, offset)?;
                hasher.update(part);
                offset += wanted as u64;
                left -= wanted as u64;
            }
            Ok(())
        })?;
        Ok(hasher.digest128().to_le_bytes() == inode.content_hash)
    }
}
