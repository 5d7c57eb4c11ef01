//! The threads that process the stream of a layer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::IngestError;
use super::compression::{Compression, Decoder};
use super::hash::Hasher;
use super::limits::Limits;
use super::pieces::{PIECE, Piece, Pool};
use super::source::Source;
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::layer::{EntryRefused, TreeBuilder};
use crate::tar::Parser;
use crate::{DiffId, Digest};

/// How many buffers the tar of one layer may take, at least and at most.
const BUFFERS: (usize, usize) = (2, 16);

/// How many pieces may wait for a thread: no more than there are.
const QUEUE: usize = BUFFERS.1;

/// How many bytes of a blob are handed to the disk at once.
const WRITEBACK: u64 = 8 << 20;

/// A layer whose stream was read completely.
pub(super) struct Streamed {
    pub(super) tree: TreeBuilder,
    pub(super) diff_id: DiffId,
    pub(super) compressed_digest: Digest,
    pub(super) blob_bytes: u64,
}

/// What the thread that decompresses knows at the end.
struct Decoded {
    tar_bytes: u64,
    /// The digest of the received bytes; `None` if they are the tar itself.
    received: Option<Digest>,
}

/// Streams a layer into `blob`.
pub(super) fn stream(
    source: &mut (dyn Read + Send),
    blob: &File,
    blob_path: &Path,
    limits: &Limits,
) -> Result<Streamed, IngestError> {
    thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel(QUEUE);
        let (to_write, written) = sync_channel(QUEUE);
        let hashing = start(scope, "hash tar", move || hash(&hashed))?;
        let writing = start(scope, "write", move || write(&written, blob, blob_path, limits.inodes))?;
        let decoded = decode(source, Sinks { sinks: [to_hash, to_write], limits, sent: 0 });
        let diff_id = DiffId(hashing.join().map_err(|_| ended_early())?);
        let tree = writing.join().map_err(|_| ended_early())?;
        match decoded? {
            Some(Decoded { tar_bytes, received }) => Ok(Streamed {
                tree: tree?,
                diff_id,
                compressed_digest: received.unwrap_or(diff_id.0),
                blob_bytes: tar_bytes,
            }),
            None => Err(tree.err().unwrap_or_else(ended_early)),
        }
    })
}

/// Starts a thread with a name. The channel that it reads must be closed before the scope ends.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, IngestError> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map_err(|cause| {
        IngestError::Source(io::Error::new(cause.kind(), format!("a thread cannot be started: {cause}")))
    })
}

fn ended_early() -> IngestError {
    IngestError::Source(io::Error::other("a thread of the import ended early: this is a bug"))
}

/// The threads that process the tar.
struct Sinks<'a> {
    sinks: [SyncSender<Piece>; 2],
    limits: &'a Limits,
    sent: u64,
}

impl Sinks<'_> {
    /// Passes on the next piece of the tar, decompressed from `received` bytes so far. Returns whether all threads still
    /// take pieces.
    fn send(&mut self, piece: &Piece, received: u64) -> Result<bool, IngestError> {
        self.sent += piece.len() as u64;
        if let Some(why) = self.limits.exceeded(self.sent, received) {
            return Err(IngestError::Limit(why));
        }
        Ok(self.sinks.iter().all(|sink| sink.send(Arc::clone(piece)).is_ok()))
    }
}

/// Reads and decompresses. Returns `None` if another thread has stopped; that thread reports the cause.
fn decode(source: &mut (dyn Read + Send), sinks: Sinks<'_>) -> Result<Option<Decoded>, IngestError> {
    let source = Source::new(source).map_err(IngestError::Source)?;
    match Compression::of(source.rest()) {
        Compression::Plain => pass_on(source, sinks),
        compression => unpack(source, compression, sinks),
    }
}

/// Passes on a tar that is not compressed.
fn pass_on(mut source: Source<'_>, mut sinks: Sinks<'_>) -> Result<Option<Decoded>, IngestError> {
    while let Some(piece) = source.next_piece().map_err(IngestError::Source)? {
        if !sinks.send(&piece, source.taken())? {
            return Ok(None);
        }
    }
    Ok(Some(Decoded { tar_bytes: sinks.sent, received: None }))
}

/// Decompresses a tar, while another thread hashes what is received.
fn unpack(
    mut source: Source<'_>,
    compression: Compression,
    mut sinks: Sinks<'_>,
) -> Result<Option<Decoded>, IngestError> {
    thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel(QUEUE);
        let hashing = start(scope, "hash layer", move || hash(&hashed))?;
        source.copy_to(to_hash).map_err(IngestError::Source)?;
        let mut decoder = Decoder::over(source, compression)?;
        let mut pool = Pool::new(BUFFERS.0, BUFFERS.1);
        loop {
            let mut buffer = pool.take();
            buffer.read_to(PIECE, &mut decoder).map_err(IngestError::Source)?;
            if buffer.is_empty() {
                break;
            }
            if !sinks.send(&Arc::new(buffer), decoder.source().taken())? {
                return Ok(None);
            }
        }
        decoder.drain().map_err(IngestError::Source)?;
        // Closes the channel of the thread that hashes.
        drop(decoder);
        let received = hashing.join().map_err(|_| ended_early())?;
        Ok(Some(Decoded { tar_bytes: sinks.sent, received: Some(received) }))
    })
}

fn hash(pieces: &Receiver<Piece>) -> Digest {
    let mut hasher = Hasher::new();
    for piece in pieces {
        hasher.update(&piece);
    }
    hasher.finish()
}

fn write(pieces: &Receiver<Piece>, mut blob: &File, path: &Path, max_inodes: u32) -> Result<TreeBuilder, IngestError> {
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
