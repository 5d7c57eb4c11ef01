//! Adds one layer: decompresses, hashes, writes the blob and builds the index, all in one pass over the stream.
//!
//! Four threads share the work: one reads and decompresses, one hashes the received bytes, one hashes the tar, and one
//! parses and writes it. What they pass on are buffers of 256 KiB that are used again, a few for each layer, so memory
//! use does not depend on the layer's size. `STORE.md` says what bounds the time.

mod compression;
mod hash;
mod limits;
mod pieces;
mod pipeline;
mod source;

pub(crate) use compression::{Compression, Decoder, Peeked};

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256, Sha512};

pub use limits::{LimitExceeded, Limits};

use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::layer::{EntryRefused, TreeBuilder, WriteError};
use crate::regular;
use crate::sharing::{Content, Lender, NewLayer};
use crate::tar::{Parser, TarError};
use crate::{BlobDigest, DiffId, Digest};

/// The digests that a layer must have. A digest that is `None` is not checked.
#[derive(Clone, Debug, Default)]
pub struct ExpectedLayer {
    /// The digest of its bytes as transferred.
    pub compressed: Option<BlobDigest>,
    /// The digest of its tar.
    pub diff_id: Option<DiffId>,
}

/// A verified layer that is in the store.
#[derive(Clone, Debug)]
pub struct IngestedLayer {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// The digest of the bytes that were read.
    pub compressed_digest: Digest,
    /// Bytes of its tar.
    pub blob_bytes: u64,
    /// Whether the store already had it.
    pub was_present: bool,
}

/// Why a layer was not added. The store is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The source could not be read, or its compression is damaged.
    #[error("{0}")]
    Source(#[source] io::Error),
    /// The compression is not supported.
    #[error("it is compressed with {0}; only gzip, zstd, xz and bzip2 are supported")]
    Compression(&'static str),
    /// The bytes do not have the expected digest.
    #[error("the digest of its bytes is {actual}, not {expected}: it was changed or cut off on the way")]
    WrongDigest {
        /// The expected digest.
        expected: String,
        /// The actual digest.
        actual: String,
    },
    /// The tar is not the one that the image's config names.
    #[error("the digest of its tar is {actual}, not {expected} as in the image's config")]
    WrongDiffId {
        /// The DiffID in the config.
        expected: DiffId,
        /// The actual DiffID.
        actual: DiffId,
    },
    /// The tar is damaged, or contains something that cannot be stored exactly.
    #[error("{0}")]
    Tar(String),
    /// The layer is larger than the limits allow.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The store could not store the layer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TarError<EntryRefused>> for IngestError {
    fn from(error: TarError<EntryRefused>) -> Self {
        match &error {
            TarError::Refused(refused) => refused.inode_limit().map(|most| Self::Limit(LimitExceeded::Inodes(most))),
            TarError::Malformed { .. } => None,
        }
        .unwrap_or_else(|| Self::Tar(error.to_string()))
    }
}

/// Makes the tar and the index of one layer in `directory`, without the content that other layers of the store
/// `sharing` have, and waits until the tar is on the disk. Also returns the tar, open for writing, and what it shares.
pub(crate) fn ingest<'store>(
    source: &mut (dyn Read + Send),
    directory: &'store Path,
    expected: &ExpectedLayer,
    limits: &Limits,
    sharing: Option<&'store dyn Lender>,
) -> Result<(IngestedLayer, File, NewLayer<'store>), IngestError> {
    let blob_path = directory.join("blob");
    let blob = regular::create(&blob_path).map_err(StoreError::io(&blob_path))?;
    let streamed = match expected.compressed {
        Some(expected @ BlobDigest::Sha512(_)) => {
            let mut hashing = Sha512Reader { source, hasher: Sha512::new() };
            let streamed = pipeline::stream(&mut hashing, &blob, &blob_path, limits)?;
            let actual = BlobDigest::Sha512(hashing.hasher.finalize().into());
            if actual != expected {
                return Err(IngestError::WrongDigest { expected: expected.to_string(), actual: actual.to_string() });
            }
            streamed
        }
        _ => pipeline::stream(source, &blob, &blob_path, limits)?,
    };
    let actual = streamed.compressed_digest;
    if let Some(expected) = expected.compressed.and_then(|wanted| wanted.sha256()).filter(|wanted| *wanted != actual) {
        return Err(IngestError::WrongDigest { expected: expected.to_string(), actual: actual.to_string() });
    }
    if let Some(wanted) = expected.diff_id.filter(|wanted| *wanted != streamed.diff_id) {
        return Err(IngestError::WrongDiffId { expected: wanted, actual: streamed.diff_id });
    }
    fault::point(FaultPoint::BlobWritten);
    let mut new = NewLayer::new(sharing, directory, streamed.diff_id, streamed.blob_bytes, streamed.tree.contents());
    new.share(&blob);
    let index_path = directory.join("index");
    let index = regular::create(&index_path).map_err(StoreError::io(&index_path))?;
    // The index is built while the blob is being synced.
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| blob.sync_all());
        write_index(streamed.tree, BufWriter::new(index), &streamed.diff_id, streamed.blob_bytes, &index_path)?;
        let synced = synced.join().unwrap_or_else(|_| Err(io::Error::other("the sync ended early")));
        synced.map_err(|cause| StoreError::write(&blob_path, streamed.blob_bytes, cause))?;
        crate::durable::sync_directory(directory)?;
        fault::point(FaultPoint::LayerStaged);
        Ok::<_, IngestError>(())
    })?;
    let layer = IngestedLayer {
        diff_id: streamed.diff_id,
        compressed_digest: streamed.compressed_digest,
        blob_bytes: streamed.blob_bytes,
        was_present: false,
    };
    Ok((layer, blob, new))
}

/// Hashes what is read with SHA-512. The few layers with a SHA-512 digest need this in addition to SHA-256.
struct Sha512Reader<'source> {
    source: &'source mut (dyn Read + Send),
    hasher: Sha512,
}

impl Read for Sha512Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let filled = self.source.read(buffer)?;
        self.hasher.update(buffer.get(..filled).unwrap_or_default());
        Ok(filled)
    }
}

fn write_index<W: Write + Seek>(
    tree: TreeBuilder,
    out: W,
    diff_id: &DiffId,
    blob_bytes: u64,
    path: &Path,
) -> Result<(), IngestError> {
    match tree.write_index(out, diff_id, blob_bytes) {
        Ok(_) => Ok(()),
        Err(WriteError::Refused(refused)) => Err(IngestError::Tar(refused.to_string())),
        Err(WriteError::Io(cause)) => {
            let written = std::fs::metadata(path).map_or(0, |made| made.len());
            Err(StoreError::write(path, written, cause).into())
        }
    }
}

/// Makes the index of a blob that is in the store, and verifies the blob's digest at the same time. `path` is the path
/// of `out`, for messages. Returns the blob's content.
pub(crate) fn index_blob<W: Write + Seek>(
    blob: &mut dyn Read,
    diff_id: &DiffId,
    (path, out): (&Path, W),
    max_inodes: u32,
) -> Result<Vec<Content>, IngestError> {
    let mut parser = Parser::new();
    let mut tree = TreeBuilder::new(max_inodes);
    let mut hasher = Sha256::new();
    let mut piece = vec![0; pieces::PIECE];
    let mut length = 0;
    loop {
        let filled = match blob.read(&mut piece) {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(IngestError::Source(error)),
        };
        let bytes = piece.get(..filled).unwrap_or_default();
        hasher.update(bytes);
        parser.feed(bytes, &mut tree)?;
        length += filled as u64;
    }
    let actual = DiffId(Digest::from_bytes(hasher.finalize().into()));
    if actual != *diff_id {
        return Err(IngestError::WrongDiffId { expected: *diff_id, actual });
    }
    parser.finish::<EntryRefused>()?;
    let contents = tree.contents();
    write_index(tree, out, diff_id, length, path)?;
    Ok(contents)
}
