//! Fetches one layer from a registry for a blocking reader.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use reqwest::{StatusCode, Url};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::ahead::{Ahead, Pace};
use super::backoff::Failure;
use super::client::Repository;
use super::connect;
use super::content::Place;
use super::error::PullError;
use super::range::{self, Ask};
use super::server::{Purpose, Server};
use crate::observer::Halt;
use crate::oci::manifest::Descriptor;
use crate::oci::media_type;
use crate::oci::partial::Partial;
use crate::{LayerProgress, LayerState, Observer};

/// How many pieces may wait for the reader. Each has the bytes of one read from the connection, at most some 400 kB.
const PIECES_AHEAD: usize = 8;
/// After how many bytes of progress earlier failures no longer count.
const FORGIVENESS: u64 = 1 << 20;
/// After how many failed requests for a range in a row the whole blob is asked for: some servers fail only on ranges.
const RANGE_FAILURES: u32 = 2;

/// Over how many connections a layer may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connections {
    One,
    /// Over several, if its server sends slowly over one.
    Several,
}

/// The bytes of a layer as they come. Failed transfers go on where they broke off, and the reader notices only the lost
/// time; the digest that the reader computes covers every byte either way.
#[derive(Debug)]
pub(super) struct LayerReader<'a> {
    pieces: mpsc::Receiver<Result<Bytes, PullError>>,
    piece: Bytes,
    failure: Option<PullError>,
    /// What arrived before. What arrives now is added to it.
    partial: Option<Partial>,
    /// How many bytes of `partial` are still to be read.
    kept: u64,
    /// How many answers had bytes in them.
    answers: Arc<AtomicUsize>,
    halt: &'a Halt,
    name: String,
    received: u64,
    total: u64,
}

impl<'a> LayerReader<'a> {
    /// Starts fetching `layer` in the background of `runtime`, from the end of `partial` on. Dropping the reader, or
    /// cancelling `halt`, ends that.
    pub(super) fn start(
        runtime: &tokio::runtime::Handle,
        repository: &Arc<Repository>,
        layer: &Descriptor,
        partial: Option<Partial>,
        connections: Connections,
        halt: &'a Halt,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let kept = partial.as_ref().map_or(0, Partial::length);
        let answers = Arc::new(AtomicUsize::new(usize::from(kept > 0)));
        let transfer = Transfer {
            repository: Arc::clone(repository),
            layer: layer.clone(),
            offset: kept,
            pieces: sender.clone(),
            answers: Arc::clone(&answers),
            connections,
            _connection: Arc::clone(&repository.connections).try_acquire_owned().ok(),
        };
        let cancelled = halt.clone();
        runtime.spawn(async move {
            let outcome = tokio::select! {
                outcome = transfer.run() => outcome,
                () = cancelled.wait() => Err(PullError::Cancelled),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = outcome {
                // This fails if the reader was dropped, and then the error does not matter.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self {
            pieces,
            piece: Bytes::new(),
            failure: None,
            partial,
            kept,
            answers,
            halt,
            name: layer.short(),
            received: 0,
            total: layer.size,
        }
    }

    /// Returns whether the bytes come from several answers. One of those may have had bytes other than it said.
    pub(super) fn is_pieced_together(&self) -> bool {
        self.answers.load(Ordering::Relaxed) > 1
    }

    /// Removes what was kept for another attempt, because the layer is in the store, or because what arrived is not the
    /// layer.
    pub(super) fn forget(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial
                .clear()
                .unwrap_or_else(|error| tracing::info!("the part of a layer that arrived cannot be removed: {error}"));
        }
    }

    /// Returns why the transfer failed, if it did. This is the cause of the error that reading returned.
    pub(super) fn take_failure(&mut self) -> Option<PullError> {
        self.failure.take()
    }

    fn fail(&mut self, error: PullError) -> io::Error {
        let told = io::Error::other(error.to_string());
        self.failure = Some(error);
        told
    }

    /// Returns the next bytes of the connection. They are kept before they are passed on.
    fn receive(&mut self) -> io::Result<bool> {
        while self.piece.is_empty() {
            self.piece = match self.pieces.blocking_recv() {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Err(self.fail(error)),
                None => return Ok(false),
            };
            if let Some(partial) = &mut self.partial
                && let Err(error) = partial.append(&self.piece)
            {
                tracing::info!("layer {} is not kept for another attempt: {error}", self.name);
                self.partial = None;
            }
            self.count(self.piece.len());
        }
        Ok(true)
    }

    fn count(&mut self, bytes: usize) {
        self.received += bytes as u64;
        self.halt.layer(&LayerProgress {
            name: &self.name,
            state: LayerState::Fetching,
            bytes: self.received,
            total: Some(self.total),
        });
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.halt.cancelled() {
            return Err(self.fail(PullError::Cancelled));
        }
        if self.kept > 0 && !buffer.is_empty() {
            let length = buffer.len().min(usize::try_from(self.kept).unwrap_or(usize::MAX));
            let kept = self
                .partial
                .as_mut()
                .map_or(Ok(0), |partial| partial.read(buffer.get_mut(..length).unwrap_or_default()))?;
            if kept == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.kept -= kept as u64;
            self.count(kept);
            return Ok(kept);
        }
        if !self.receive()? {
            return Ok(0);
        }
        let length = buffer.len().min(self.piece.len());
        if let Some(buffer) = buffer.get_mut(..length) {
            self.piece.copy_to_slice(buffer);
        }
        Ok(length)
    }
}

/// Why one attempt at the bytes of a layer ended.
enum Stop {
    /// The layer is complete, or its reader was dropped.
    Done,
    /// The answer had only a part of what was asked for. The next part is asked for at once.
    More,
    /// The transfer cannot continue with this answer, but perhaps with one to a different request.
    Useless(PullError),
}

/// A layer that is being fetched.
struct Transfer {
    repository: Arc<Repository>,
    layer: Descriptor,
    /// The bytes received so far.
    offset: u64,
    pieces: mpsc::Sender<Result<Bytes, PullError>>,
    answers: Arc<AtomicUsize>,
    connections: Connections,
    /// One of the connections of the repository, so that no other layer takes it.
    _connection: Option<OwnedSemaphorePermit>,
}

impl Transfer {
    /// Sends the whole layer, piece by piece: from the registry, or else from the places that a foreign layer names.
    async fn run(mut self) -> Result<(), PullError> {
        let failed = match self.fetch(&Place::Registry).await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let mut last = None;
        for url in self.places() {
            match self.fetch(&Place::Elsewhere(url)).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(source) => Err(PullError::Foreign { layer: self.layer.digest, source: Box::new(source) }),
            None => Err(failed),
        }
    }

    /// Returns where a foreign layer is besides the registry.
    fn places(&self) -> Vec<Url> {
        match media_type::is_foreign(&self.layer.media_type) {
            true => self.layer.urls.iter().filter_map(|url| connect::web_address(url)).collect(),
            false => Vec::new(),
        }
    }

    /// Sends the rest of the layer from one place, in as many attempts as it takes.
    async fn fetch(&mut self, place: &Place) -> Result<(), PullError> {
        let repository = Arc::clone(&self.repository);
        let mut backoff = repository.backoff();
        let (mut ask, mut failures) = (Ask::OpenRange, 0);
        loop {
            let start = self.offset;
            let ended = self.attempt(place, ask).await;
            let is_ranged = ask.header(start, self.layer.size).is_some();
            if self.offset > start {
                failures = 0;
            }
            match ended {
                Ok(Stop::Done) => return Ok(()),
                Ok(Stop::More) => {}
                Ok(Stop::Useless(error)) => {
                    tracing::info!(
                        "layer {}: the server cannot continue after {start} bytes: {error}",
                        self.layer.short()
                    );
                    ask = ask.next();
                }
                Err(failure) => {
                    if self.offset - start >= FORGIVENESS {
                        backoff.reset();
                    }
                    repository.wait_after(&mut backoff, failure).await?;
                    failures += u32::from(is_ranged);
                    if failures >= RANGE_FAILURES {
                        (ask, failures) = (Ask::Whole, 0);
                    }
                }
            }
        }
    }

    /// Makes one attempt: sends the bytes from `offset` on as they arrive, and advances `offset`.
    async fn attempt(&mut self, place: &Place, ask: Ask) -> Result<Stop, Failure> {
        let size = self.layer.size;
        if self.offset == size && size > 0 {
            return Ok(Stop::Done);
        }
        let is_ranged = ask.header(self.offset, size).is_some();
        let mut response = match self.repository.blob(place, &self.layer, ask, self.offset).await {
            Err(Failure::Final(error)) if is_ranged => return Ok(Stop::Useless(error)),
            Err(Failure::Passing { error: error @ PullError::Answer { status: 501, .. }, .. }) if is_ranged => {
                return Ok(Stop::Useless(error));
            }
            other => other?,
        };
        let purpose = match place {
            Place::Registry => Purpose::Content,
            Place::Elsewhere(_) => Purpose::Foreign,
        };
        let url = response.url().clone();
        let server = self.repository.server(&url, purpose);
        let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let before = self.offset;
        let Some(start) = range::start(is_partial, response.headers(), before, size) else {
            let length = response.content_length().unwrap_or_default();
            let error = self.wrong_length(server, if is_partial { before + length } else { length });
            return if is_ranged { Ok(Stop::Useless(error)) } else { Err(error.into()) };
        };
        let mut skip = before - start;
        let (mut pace, mut ahead) = (Pace::new(), None::<Ahead>);
        while let Some(mut piece) =
            pace.wait(response.chunk()).await.map_err(|e| self.repository.failure(url.clone(), purpose, e))?
        {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            piece.advance(usize::try_from(skipped).unwrap_or(piece.len()));
            if piece.is_empty() {
                continue;
            }
            if self.offset == before {
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
            let end = self.offset + piece.len() as u64;
            if end > size && !is_ranged {
                return Err(self.wrong_length(server, end).into());
            }
            if self.may_go_ahead(&pace, ahead.is_some()) {
                ahead = Ahead::start(&self.repository, place, &self.layer, end);
            }
            // Where the parts begin, this answer ends, unless the server has none.
            let is_over = ahead.as_mut().is_some_and(|ahead| {
                ahead.fill();
                end >= ahead.begins()
            });
            let mut parts = ahead.take_if(|_| is_over);
            if parts.take_if(|parts| !parts.is_accepted()).is_some() {
                self.connections = Connections::One;
            }
            let limit = parts.as_ref().map_or(size, Ahead::begins);
            piece.truncate(usize::try_from(limit - self.offset).unwrap_or(usize::MAX));
            if !self.send(piece).await {
                return Ok(Stop::Done);
            }
            if let Some(parts) = parts {
                drop(response);
                return Ok(self.go_ahead(parts).await);
            }
            if end > size {
                break;
            }
        }
        if self.offset >= size {
            return Ok(Stop::Done);
        }
        // The end of an answer without a length looks the same as a connection cut by a proxy.
        let error = self.wrong_length(server, self.offset);
        match is_ranged {
            true if self.offset > before => Ok(Stop::More),
            true => Ok(Stop::Useless(error)),
            false => Err(Failure::passing(error)),
        }
    }

    /// Whether to ask for parts now, to receive the layer over several connections.
    fn may_go_ahead(&self, pace: &Pace, is_ahead: bool) -> bool {
        self.connections == Connections::Several && !is_ahead && pace.is_bound_by_connection()
    }

    /// Passes on the next bytes. Returns whether there is still a reader.
    async fn send(&mut self, piece: Bytes) -> bool {
        self.offset += piece.len() as u64;
        self.pieces.send(Ok(piece)).await.is_ok()
    }

    /// Sends the rest of the layer, which comes over several connections. If a part does not come, the rest is asked for
    /// over one connection again.
    async fn go_ahead(&mut self, mut parts: Ahead) -> Stop {
        tracing::info!("layer {}: fetched over several connections", self.layer.short());
        parts.take_over();
        while let Some(part) = parts.next().await {
            let Some(part) = part else {
                self.connections = Connections::One;
                return Stop::More;
            };
            self.answers.fetch_add(1, Ordering::Relaxed);
            for piece in part {
                if !self.send(piece).await {
                    return Stop::Done;
                }
            }
        }
        Stop::Done
    }

    fn wrong_length(&self, server: Server, actual: u64) -> PullError {
        PullError::WrongLength { layer: Box::new(self.layer.digest), server, expected: self.layer.size, actual }
    }
}
