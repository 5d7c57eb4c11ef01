//! Brings one layer to its destination, in the cheapest way.

use std::io::Read;
use std::sync::Arc;

use super::compress::{self, Packing};
use super::destination::Destination;
use super::error::PushError;
use super::{PushOptions, PushedLayer, Transfer};
use crate::error::StoreError;
use crate::oci::manifest::Descriptor;
use crate::oci::media_type;
use crate::registry::UploadBlob;
use crate::store::Store;
use crate::{BlobDigest, DiffId, LayerProgress, LayerSource, LayerState, Observer, Origin};

/// What sends one image.
pub(super) struct Sender<'a> {
    pub(super) store: &'a Store,
    pub(super) destination: &'a dyn Destination,
    pub(super) options: &'a PushOptions,
    pub(super) observer: &'a Arc<dyn Observer>,
}

/// A layer that is at its destination.
#[derive(Clone, Debug)]
pub(super) struct Delivered {
    pub(super) digest: BlobDigest,
    pub(super) bytes: u64,
    /// The way in which it was compressed here, if it is not the layer that the manifest describes.
    pub(super) packed: Option<Packing>,
    pub(super) transfer: Transfer,
}

impl Delivered {
    pub(super) fn pushed(&self) -> PushedLayer {
        PushedLayer { digest: self.digest, bytes: self.bytes, transfer: self.transfer }
    }
}

impl Sender<'_> {
    /// Brings a layer to the destination: as the manifest describes it if possible.
    pub(super) fn layer(&self, wanted: &Descriptor, layer: &DiffId) -> Result<Delivered, PushError> {
        let sources = self.store.layers().sources(layer);
        let delivered = match self.as_described(wanted, layer, &sources)? {
            Ok(delivered) => delivered,
            Err(why) if self.options.preserve_digests => {
                return Err(PushError::Lost { layer: Box::new(wanted.digest), cause: why.cause });
            }
            Err(why) => {
                if let Some(said) = why.notice {
                    self.observer.notice(&said);
                }
                self.packed(layer, wanted, &sources, why.made)?
            }
        };
        let state = match delivered.transfer {
            Transfer::Sent => LayerState::Done,
            _ => LayerState::Present,
        };
        self.report(wanted, state, delivered.bytes, delivered.bytes);
        let media_type = match delivered.packed {
            Some(packing) => packing.media_type().to_string(),
            None => wanted.media_type.clone(),
        };
        if delivered.transfer != Transfer::Elsewhere
            && let Some(source) = self.destination.source(&delivered.digest, &media_type, delivered.bytes)
        {
            let noted = self.store.remember_source(layer, &source);
            noted.unwrap_or_else(|error| tracing::info!("not recorded: {error}"));
        }
        Ok(delivered)
    }

    /// Brings the layer that the manifest describes to the destination. The inner error says why that is not possible.
    fn as_described(
        &self,
        wanted: &Descriptor,
        layer: &DiffId,
        sources: &[LayerSource],
    ) -> Result<Result<Delivered, Unavailable>, PushError> {
        if media_type::is_foreign(&wanted.media_type) && !wanted.urls.is_empty() {
            return Ok(Ok(described(wanted, Transfer::Elsewhere)));
        }
        let packing = Packing::of(&wanted.media_type);
        if self.options.force_packing && !self.options.preserve_digests && packing != Some(self.options.packing) {
            return Ok(Err(Unavailable::of("another compression is asked for")));
        }
        if self.is_present(wanted)? {
            return Ok(Ok(described(wanted, Transfer::Present)));
        }
        if self.destination.mount(&wanted.digest, sources)? {
            return Ok(Ok(described(wanted, Transfer::Mounted)));
        }
        let is_plain = wanted.digest.sha256() == Some(layer.0);
        let came_plain = sources
            .iter()
            .any(|source| source.compressed == wanted.digest && matches!(source.origin, Origin::Registry { .. }));
        if is_plain && !came_plain && !self.options.preserve_digests && self.options.packing != Packing::Plain {
            return Ok(Err(Unavailable::of("it was never compressed")));
        }
        match self.original(wanted, layer, sources)? {
            Ok(blob) => {
                self.send_blob(wanted, &blob)?;
                Ok(Ok(described(wanted, Transfer::Sent)))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    /// Brings the layer to the destination with a compression of this program.
    fn packed(
        &self,
        layer: &DiffId,
        wanted: &Descriptor,
        sources: &[LayerSource],
        made: Option<(Packing, UploadBlob)>,
    ) -> Result<Delivered, PushError> {
        let packing = self.options.packing;
        let delivered = |digest, bytes, transfer| Delivered { digest, bytes, packed: Some(packing), transfer };
        // What an earlier push has sent, here or to another repository, is not compressed again. A source may be what an image
        // claims about a layer that was there already; only bytes that have become this layer here are used.
        let is_proved = |digest: &BlobDigest| {
            digest.sha256().is_some_and(|digest| self.store.layers().by_compressed(&digest) == Some(*layer))
        };
        let is_packed = |source: &&LayerSource| Packing::of(&source.media_type) == Some(packing);
        for source in sources.iter().filter(is_packed).filter(|source| is_proved(&source.compressed)) {
            if self.destination.has_blob(&source.compressed)? {
                return Ok(delivered(source.compressed, source.bytes, Transfer::Present));
            }
            if self.destination.mount(&source.compressed, sources)? {
                return Ok(delivered(source.compressed, source.bytes, Transfer::Mounted));
            }
        }
        let blob = match made {
            Some((made, blob)) if made == packing => blob,
            _ => self.compress(layer, wanted, packing)?,
        };
        if let Some(digest) = blob.digest.sha256() {
            let noted = self.store.remember_compressed(layer, &digest);
            noted.unwrap_or_else(|error| tracing::info!("not recorded: {error}"));
        }
        let transfer = match self.destination.has_blob(&blob.digest)? {
            true => Transfer::Present,
            false => {
                self.send_blob(wanted, &blob)?;
                Transfer::Sent
            }
        };
        Ok(delivered(blob.digest, blob.size, transfer))
    }

    /// Compresses a layer of the store, and verifies its tar on the way.
    pub(super) fn compress(
        &self,
        layer: &DiffId,
        wanted: &Descriptor,
        packing: Packing,
    ) -> Result<UploadBlob, PushError> {
        self.store.hold_layer(layer)?;
        let total = self.store.layers().bytes(layer).unwrap_or_default();
        let blob = self.store.open_blob(layer)?;
        let mut tar = Verified::new(blob.reader(), |bytes| {
            self.report(wanted, LayerState::Compressing, bytes, total);
            !self.observer.cancelled()
        });
        let file = self.scratch()?;
        let made = compress::compress(&mut tar, file, packing);
        if self.observer.cancelled() {
            return Err(PushError::Cancelled);
        }
        if let Some(cause) = tar.failure.take() {
            return Err(StoreError::DamagedLayer { layer: *layer, cause }.into());
        }
        let made = made.map_err(PushError::host(self.store.root()))?;
        let actual = tar.digest();
        if actual != layer.0 {
            let cause = format!("its digest is {actual}");
            return Err(StoreError::DamagedLayer { layer: *layer, cause }.into());
        }
        Ok(made)
    }

    /// Creates a file without a name, which disappears with this process.
    pub(super) fn scratch(&self) -> Result<std::fs::File, PushError> {
        match self.store.staging() {
            Ok(staging) => tempfile::tempfile_in(staging.path()).map_err(PushError::host(staging.path())),
            // A store that may only be read.
            Err(error) if error.is_closed() => tempfile::tempfile().map_err(PushError::host(&std::env::temp_dir())),
            Err(error) => Err(error.into()),
        }
    }

    fn is_present(&self, wanted: &Descriptor) -> Result<bool, PushError> {
        self.destination.has_blob(&wanted.digest)
    }

    fn send_blob(&self, wanted: &Descriptor, blob: &UploadBlob) -> Result<(), PushError> {
        self.destination.put_blob(blob, &wanted.short())
    }

    pub(super) fn report(&self, wanted: &Descriptor, state: LayerState, bytes: u64, total: u64) {
        self.observer.layer(&LayerProgress { name: &wanted.short(), state, bytes, total: Some(total) });
    }
}

fn described(wanted: &Descriptor, transfer: Transfer) -> Delivered {
    Delivered { digest: wanted.digest, bytes: wanted.size, packed: None, transfer }
}

/// Why a layer cannot be had in the form that the manifest describes.
pub(super) struct Unavailable {
    pub(super) cause: String,
    /// What to tell the user.
    pub(super) notice: Option<String>,
    /// What was made while it was tried.
    pub(super) made: Option<(Packing, UploadBlob)>,
}

impl Unavailable {
    pub(super) fn of(cause: &str) -> Self {
        Self { cause: cause.to_owned(), notice: None, made: None }
    }
}

/// A tar whose digest is computed while it is read.
struct Verified<R, F> {
    source: R,
    hasher: sha2::Sha256,
    read: u64,
    goes_on: F,
    failure: Option<String>,
}

impl<R: Read, F: FnMut(u64) -> bool> Verified<R, F> {
    fn new(source: R, goes_on: F) -> Self {
        Self { source, hasher: sha2::Digest::new(), read: 0, goes_on, failure: None }
    }

    fn digest(self) -> crate::Digest {
        crate::Digest::from_bytes(sha2::Digest::finalize(self.hasher).into())
    }
}

impl<R: Read, F: FnMut(u64) -> bool> Read for Verified<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let filled = self.source.read(buffer).inspect_err(|error| self.failure = Some(error.to_string()))?;
        sha2::Digest::update(&mut self.hasher, buffer.get(..filled).unwrap_or_default());
        self.read += filled as u64;
        if (self.goes_on)(self.read) { Ok(filled) } else { Err(std::io::Error::other("cancelled")) }
    }
}
