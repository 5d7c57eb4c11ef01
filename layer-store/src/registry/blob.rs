//! One layer on its way from a registry to a blocking reader.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use reqwest::StatusCode;
use tokio::sync::mpsc;

use super::backoff::Failure;
use super::client::Repository;
use super::error::PullError;
use crate::observer::Halt;
use crate::oci::manifest::Descriptor;
use crate::{LayerProgress, LayerState, Observer};

/// Pieces that wait for the reader; each is what one read from the connection gave, at most some 400 kB.
const PIECES_AHEAD: usize = 8;
/// Progress, in bytes, after which earlier failures are forgiven.
const FORGIVENESS: u64 = 1 << 20;

/// The bytes of a layer as they come. Failed transfers go on where they broke off without the reader
/// noticing more than the time; the digest that the reader computes covers every byte either way.
#[derive(Debug)]
pub(super) struct LayerReader<'a> {
    pieces: mpsc::Receiver<Result<Bytes, PullError>>,
    piece: Bytes,
    failure: Option<PullError>,
    halt: &'a Halt,
    progress: &'a dyn Observer,
    name: String,
    received: u64,
    total: u64,
}

impl<'a> LayerReader<'a> {
    /// Starts fetching `layer` in the background of `runtime`. Dropping the reader, or cancelling
    /// `halt`, ends that.
    pub(super) fn start(
        runtime: &tokio::runtime::Handle,
        repository: &Arc<Repository>,
        layer: &Descriptor,
        halt: &'a Halt,
        progress: &'a dyn Observer,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let (repository, fetched, cancelled) = (Arc::clone(repository), layer.clone(), halt.clone());
        runtime.spawn(async move {
            let outcome = tokio::select! {
                outcome = fetch(&repository, &fetched, &sender) => outcome,
                () = cancelled.wait() => Err(PullError::Cancelled),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = outcome {
                // Nobody listens any more: then nobody misses it.
                let _ = sender.send(Err(error)).await;
            }
        });
        let piece = Bytes::new();
        Self { pieces, piece, failure: None, halt, progress, name: layer.short(), received: 0, total: layer.size }
    }

    /// Why the transfer failed, if it did: the cause behind whatever error reading gave.
    pub(super) fn into_failure(self) -> Option<PullError> {
        self.failure
    }

    fn fail(&mut self, error: PullError) -> io::Error {
        let told = io::Error::other(error.to_string());
        self.failure = Some(error);
        told
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.halt.cancelled() {
            return Err(self.fail(PullError::Cancelled));
        }
        while self.piece.is_empty() {
            self.piece = match self.pieces.blocking_recv() {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Err(self.fail(error)),
                None => return Ok(0),
            };
            self.received += self.piece.len() as u64;
            self.progress.layer(&LayerProgress {
                name: &self.name,
                state: LayerState::Fetching,
                bytes: self.received,
                total: Some(self.total),
            });
        }
        let length = buffer.len().min(self.piece.len());
        if let Some(buffer) = buffer.get_mut(..length) {
            self.piece.copy_to_slice(buffer);
        }
        Ok(length)
    }
}

/// Sends the whole layer, piece by piece, attempt after attempt.
async fn fetch(
    repository: &Repository,
    layer: &Descriptor,
    pieces: &mpsc::Sender<Result<Bytes, PullError>>,
) -> Result<(), PullError> {
    let mut backoff = repository.backoff();
    let mut offset = 0;
    loop {
        let start = offset;
        match fetch_from(repository, layer, &mut offset, pieces).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                if offset - start >= FORGIVENESS {
                    backoff.reset();
                }
                backoff.after(failure, repository.contact()).await?;
            }
        }
    }
}

/// One attempt: sends what comes from `offset` on, and moves `offset` along.
async fn fetch_from(
    repository: &Repository,
    layer: &Descriptor,
    offset: &mut u64,
    pieces: &mpsc::Sender<Result<Bytes, PullError>>,
) -> Result<(), Failure> {
    let wrong_length = |actual| PullError::WrongLength { layer: layer.digest, expected: layer.size, actual };
    let mut response = match repository.blob_from(layer, *offset).await {
        // Asked for the rest, the registry says that there is none.
        Err(Failure::Final(PullError::Answer { status: 416, .. })) => return Err(wrong_length(*offset).into()),
        other => other?,
    };
    let start = if response.status() == StatusCode::PARTIAL_CONTENT { *offset } else { 0 };
    if let Some(length) = response.content_length().filter(|length| start + length != layer.size) {
        return Err(wrong_length(start + length).into());
    }
    let mut skip = *offset - start;
    let url = repository.blob_url(layer);
    while let Some(mut piece) = response.chunk().await.map_err(|e| repository.failure(&url, &e))? {
        let skipped = skip.min(piece.len() as u64);
        skip -= skipped;
        piece.advance(usize::try_from(skipped).unwrap_or(piece.len()));
        *offset += piece.len() as u64;
        if *offset > layer.size {
            return Err(wrong_length(*offset).into());
        }
        if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
    if *offset < layer.size {
        // The end of an answer without a length looks the same as a connection cut by a proxy.
        return Err(Failure::Passing { error: wrong_length(*offset), wait: None });
    }
    Ok(())
}
