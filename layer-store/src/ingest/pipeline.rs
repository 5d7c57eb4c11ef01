//! The threads that process the stream of a layer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::IngestError;
use super::compression::Decoder;
use super::limits::Limits;
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::layer::{EntryRefused, TreeBuilder};
use crate::tar::Parser;
use crate::{DiffId, Digest};

/// The size of one piece of the stream in bytes.
pub(super) const PIECE: usize = 256 << 10;

/// How many pieces may wait in the queue of a thread.
const QUEUE: usize = 4;

/// How many bytes of a blob are handed to the disk at once.
const WRITEBACK: u64 = 8 << 20;

/// A layer whose stream was read completely.
pub(super) struct Streamed {
    pub(super) tree: TreeBuilder,
    pub(super) diff_id: DiffId,
    pub(super) compressed_digest: Digest,
    pub(super) blob_bytes: u64,
}

/// Streams a layer into `blob`.
pub(super) fn stream(
    source: &mut (dyn Read + Send),
    blob: &File,
    blob_path: &Path,
    limits: &Limits,
) -> Result<Streamed, IngestError> {
    std::thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel::<Bytes>(QUEUE);
        let (to_write, written) = sync_channel::<Bytes>(QUEUE);
        let hashing = scope.spawn(move || hash(&hashed));
        let writing = scope.spawn(move || write(&written, blob, blob_path, limits.inodes));
        let decoded = decode(source, &[to_hash, to_write], limits);
        let diff_id = hashing.join().map_err(|_| ended_early())?;
        let tree = writing.join().map_err(|_| ended_early())?;
        match decoded? {
            Some((compressed_digest, blob_bytes)) => {
                Ok(Streamed { tree: tree?, diff_id, compressed_digest, blob_bytes })
            }
            None => Err(tree.err().unwrap_or_else(ended_early)),
        }
    })
}

fn ended_early() -> IngestError {
    IngestError::Source(io::Error::other("a thread of the import ended early: this is a bug"))
}

/// Reads and decompresses. Returns the digest of the bytes read and the length of the tar, or `None` if another thread
/// has stopped; that thread reports the cause.
fn decode(
    source: &mut (dyn Read + Send),
    sinks: &[SyncSender<Bytes>; 2],
    limits: &Limits,
) -> Result<Option<(Digest, u64)>, IngestError> {
    let mut decoder = Decoder::new(HashingReader { source, hasher: Sha256::new(), taken: 0 })?;
    let mut length = 0u64;
    loop {
        let piece = fill(&mut decoder).map_err(IngestError::Source)?;
        if piece.is_empty() {
            break;
        }
        length += piece.len() as u64;
        if let Some(why) = limits.exceeded(length, decoder.source().taken) {
            return Err(IngestError::Limit(why));
        }
        if sinks.iter().any(|sink| sink.send(piece.clone()).is_err()) {
            return Ok(None);
        }
    }
    decoder.drain().map_err(IngestError::Source)?;
    let hasher = decoder.source().hasher.clone();
    Ok(Some((Digest::from_bytes(hasher.finalize().into()), length)))
}

/// Reads one piece, which is full unless it is the last.
fn fill(decoder: &mut impl Read) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    decoder.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

struct HashingReader<'source> {
    source: &'source mut (dyn Read + Send),
    hasher: Sha256,
    taken: u64,
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let filled = self.source.read(buffer)?;
        self.hasher.update(buffer.get(..filled).unwrap_or_default());
        self.taken += filled as u64;
        Ok(filled)
    }
}

fn hash(pieces: &Receiver<Bytes>) -> DiffId {
    let mut hasher = Sha256::new();
    for piece in pieces {
        hasher.update(&piece);
    }
    DiffId(Digest::from_bytes(hasher.finalize().into()))
}

fn write(pieces: &Receiver<Bytes>, mut blob: &File, path: &Path, max_inodes: u32) -> Result<TreeBuilder, IngestError> {
    let mut parser = Parser::new();
    let mut tree = TreeBuilder::new(max_inodes);
    let (mut written, mut underway) = (0, 0);
    for piece in pieces {
        parser.feed(&piece, &mut tree)?;
        blob.write_all(&piece).map_err(|cause| StoreError::write(path, written, cause))?;
        written += piece.len() as u64;
        if written - underway >= WRITEBACK {
            durable::begin_writeback(blob, underway, written - underway);
            underway = written;
        }
        fault::point(FaultPoint::BlobBegun);
    }
    parser.finish::<EntryRefused>()?;
    Ok(tree)
}
