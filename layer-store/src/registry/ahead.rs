//! Fetches a large blob over several connections, if its server sends slowly over one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::Repository;
use super::content::Place;
use super::range::{self, Ask};
use crate::oci::manifest::Descriptor;

/// The bytes of one part. Each connection keeps one in memory: that which it receives, or that which is being passed on.
const PART: u64 = 4 << 20;
/// How much of a blob must be missing: for less it is not worth making connections.
const LEAST: u64 = 4 * PART;
/// How long a connection is watched before it is called slow.
const WATCHED: Duration = Duration::from_secs(1);

/// How much of its time a transfer waits for the server.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    waited: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO }
    }

    /// Waits for the server.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let next = next.await;
        self.waited += begun.elapsed();
        next
    }

    /// Whether the connection is what the transfer waits for, and not the reader of its bytes.
    pub(super) fn is_bound_by_connection(&self) -> bool {
        let elapsed = self.since.elapsed();
        elapsed >= WATCHED && 4 * self.waited >= 3 * elapsed
    }
}

/// The parts of a blob after the one that is being received.
#[derive(Debug)]
pub(super) struct Ahead {
    repository: Arc<Repository>,
    place: Place,
    blob: Descriptor,
    start: u64,
    /// Where the next part begins.
    next: u64,
    parts: VecDeque<Part>,
    connections: usize,
    permits: Vec<OwnedSemaphorePermit>,
    /// Whether the server has answered with exactly the part that was asked for.
    accepted: Arc<AtomicBool>,
}

/// A part that is being fetched until it is dropped. It is `None` if it could not be fetched.
#[derive(Debug)]
struct Part(JoinHandle<Option<Vec<Bytes>>>);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ahead {
    /// Asks for one part, to see whether the server has parts. `offset` is how much has arrived. Returns `None` if too
    /// little is missing, or if other layers need all connections.
    pub(super) fn start(repository: &Arc<Repository>, place: &Place, blob: &Descriptor, offset: u64) -> Option<Self> {
        if blob.size.saturating_sub(offset) < LEAST {
            return None;
        }
        let permit = || Arc::clone(&repository.connections).try_acquire_owned().ok();
        let permits: Vec<_> = std::iter::from_fn(permit).collect();
        let mut ahead = Self {
            repository: Arc::clone(repository),
            place: place.clone(),
            blob: blob.clone(),
            start: offset + PART,
            next: offset + PART,
            parts: VecDeque::new(),
            connections: permits.len(),
            permits,
            accepted: Arc::default(),
        };
        if ahead.permits.is_empty() {
            return None;
        }
        ahead.fetch_next();
        Some(ahead)
    }

    /// Returns where the first part begins.
    pub(super) fn begins(&self) -> u64 {
        self.start
    }

    /// Whether the server sends parts.
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Uses the connection too over which the blob came so far.
    pub(super) fn take_over(&mut self) {
        self.connections += 1;
    }

    /// Asks for more parts if a connection is free and the server sends parts.
    pub(super) fn fill(&mut self) {
        while self.is_accepted() && self.parts.len() < self.connections && self.next < self.blob.size {
            self.fetch_next();
        }
    }

    fn fetch_next(&mut self) {
        let (start, end) = (self.next, self.blob.size.min(self.next + PART));
        let (repository, place, blob) = (Arc::clone(&self.repository), self.place.clone(), self.blob.clone());
        let accepted = Arc::clone(&self.accepted);
        self.next = end;
        self.parts.push_back(Part(tokio::spawn(async move {
            let fetched = part(&repository, &place, &blob, (start, end), &accepted).await;
            let because = |cause| tracing::info!("layer {}: no part from {start} on: {cause}", blob.short());
            fetched.map_err(because).ok()
        })));
    }

    /// Returns the next part, `Some(None)` if it could not be fetched, or `None` after the last. The part before it must have
    /// been passed on, because its connection is used again.
    pub(super) async fn next(&mut self) -> Option<Option<Vec<Bytes>>> {
        self.fill();
        let mut part = self.parts.pop_front()?;
        Some((&mut part.0).await.ok().flatten())
    }
}

/// Fetches the bytes from `start` to `end`, and nothing else.
async fn part(
    repository: &Repository,
    place: &Place,
    blob: &Descriptor,
    (start, end): (u64, u64),
    accepted: &AtomicBool,
) -> Result<Vec<Bytes>, String> {
    let answer = repository.blob(place, blob, Ask::Part { end }, start).await;
    let mut response = answer.map_err(|failure| failure.into_error().to_string())?;
    let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
    if !is_partial || !range::is_exactly(response.headers(), start, end, blob.size) {
        return Err(format!("the answer {} has other bytes", response.status().as_u16()));
    }
    accepted.store(true, Ordering::Relaxed);
    let (mut pieces, mut missing) = (Vec::new(), end - start);
    while let Some(piece) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
        missing = missing.checked_sub(piece.len() as u64).ok_or("the answer is too long")?;
        pieces.push(piece);
    }
    if missing == 0 { Ok(pieces) } else { Err("the answer was cut off".to_owned()) }
}
