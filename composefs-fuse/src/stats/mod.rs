//! Counters of what a server was asked, without a lock.

mod snapshot;

pub use snapshot::{Counts, Snapshot};

use crate::wire::Opcode;
use snapshot::without_trailing_zeros;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counters by opcode number. Index 0, which is no opcode, counts all unknown ones.
const SLOTS: usize = 64;

/// Buckets of the latency histogram. The last one takes everything from 2^30 ns (about a second) on.
pub(crate) const BUCKETS: usize = 32;

const _: () = {
    let mut rest = Opcode::ALL;
    while let [opcode, others @ ..] = rest {
        assert!((*opcode as usize) < SLOTS);
        rest = others;
    }
};

/// One request that was handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Its kind, if known.
    pub(crate) opcode: Option<Opcode>,
    /// Whether the answer was an error.
    pub(crate) failed: bool,
    /// Bytes of the request.
    pub(crate) received: usize,
    /// Bytes of the reply.
    pub(crate) sent: usize,
    /// Bytes of file content in the reply.
    pub(crate) content: usize,
    /// The time from the first look at the request until the reply was in the buffer.
    pub(crate) elapsed: Duration,
}

/// The counters of one server.
///
/// A reader may see a message in one counter before it is in another. Each counter by itself is exact.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    kinds: Box<[Kind; SLOTS]>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    content_bytes: AtomicU64,
    begun_files: AtomicU64,
    malformed: AtomicU64,
    panics: AtomicU64,
    damaged: AtomicU64,
    broken_queues: AtomicU64,
}

#[derive(Debug, Default)]
struct Kind {
    count: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            kinds: Box::new(std::array::from_fn(|_| Kind::default())),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            content_bytes: AtomicU64::new(0),
            begun_files: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            broken_queues: AtomicU64::new(0),
        }
    }

    pub(crate) fn record(&self, message: &Message) {
        let nanoseconds = u64::try_from(message.elapsed.as_nanos()).unwrap_or(u64::MAX);
        if let Some(kind) = self.kinds.get(message.opcode.map_or(0, |opcode| opcode as usize)) {
            kind.count.fetch_add(1, Relaxed);
            kind.errors.fetch_add(u64::from(message.failed), Relaxed);
            kind.nanoseconds.fetch_add(nanoseconds, Relaxed);
            if let Some(bucket) = kind.latency.get(bucket_of(nanoseconds)) {
                bucket.fetch_add(1, Relaxed);
            }
        }
        self.received_bytes.fetch_add(message.received as u64, Relaxed);
        self.sent_bytes.fetch_add(message.sent as u64, Relaxed);
        self.content_bytes.fetch_add(message.content as u64, Relaxed);
    }

    /// Counts a read of the beginning of a file.
    pub(crate) fn record_beginning(&self) {
        self.begun_files.fetch_add(1, Relaxed);
    }

    /// Counts a request that was too short or too malformed to be answered.
    pub(crate) fn record_malformed(&self) {
        self.malformed.fetch_add(1, Relaxed);
    }

    /// Counts a request whose handler panicked.
    pub(crate) fn record_panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// Counts a read of damaged content. Returns how many there were before.
    pub(crate) fn record_damage(&self) -> u64 {
        self.damaged.fetch_add(1, Relaxed)
    }

    /// Counts a guest's notification of a queue that could not be read. Returns how many there were before.
    pub fn record_broken_queue(&self) -> u64 {
        self.broken_queues.fetch_add(1, Relaxed)
    }

    /// Returns how many requests of one kind were answered with an error so far.
    pub(crate) fn errors(&self, opcode: Opcode) -> u64 {
        self.kinds.get(opcode as usize).map_or(0, |kind| kind.errors.load(Relaxed))
    }

    /// Returns all counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let name = |number: usize| {
            let opcode = u32::try_from(number).ok().and_then(Opcode::from_raw);
            opcode.map_or("UNKNOWN", Opcode::name).to_owned()
        };
        let messages = self.kinds.iter().enumerate().filter_map(|(number, kind)| {
            let counts = kind.counts();
            (counts.count > 0).then(|| (name(number), counts))
        });
        let opened = self.kinds.get(Opcode::Open as usize).map_or(0, |kind| kind.count.load(Relaxed));
        Snapshot {
            uptime_milliseconds: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            messages: messages.collect(),
            opened_files: opened,
            begun_files: self.begun_files.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            content_bytes: self.content_bytes.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            panics: self.panics.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
            broken_queues: self.broken_queues.load(Relaxed),
        }
    }
}

impl Kind {
    fn counts(&self) -> Counts {
        let latency = self.latency.iter().map(|bucket| bucket.load(Relaxed)).collect();
        Counts {
            count: self.count.load(Relaxed),
            errors: self.errors.load(Relaxed),
            nanoseconds: self.nanoseconds.load(Relaxed),
            latency: without_trailing_zeros(latency),
        }
    }
}

/// Returns the bucket of a latency: bucket `n` is for 2^(n-1) up to, but not including, 2^n nanoseconds, and bucket 0 for 0.
fn bucket_of(nanoseconds: u64) -> usize {
    ((u64::BITS - nanoseconds.leading_zeros()) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: Option<Opcode>, nanoseconds: u64) -> Message {
        Message {
            opcode,
            failed: opcode.is_none(),
            received: 40,
            sent: 16,
            content: 3,
            elapsed: Duration::from_nanos(nanoseconds),
        }
    }

    #[test]
    fn latencies_fall_into_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 1023, 1024].map(bucket_of), [0, 1, 2, 2, 3, 10, 11]);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_snapshot_names_the_kinds_seen_and_survives_json() {
        let stats = Stats::new();
        stats.record(&message(Some(Opcode::Read), 5));
        stats.record(&message(Some(Opcode::Read), 900));
        stats.record(&message(None, 1));
        stats.record(&message(Some(Opcode::Open), 1));
        stats.record_beginning();
        stats.record_damage();
        stats.record_broken_queue();
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.count("READ"), 2);
        assert_eq!(snapshot.count("UNKNOWN"), 1);
        assert_eq!(snapshot.count("LOOKUP"), 0);
        assert_eq!(snapshot.messages["READ"].latency, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(snapshot.messages["UNKNOWN"].errors, 1);
        assert_eq!((snapshot.content_bytes, snapshot.damaged, snapshot.broken_queues), (12, 1, 1));
        assert_eq!((snapshot.opened_files, snapshot.begun_files), (1, 1));
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    }

    #[test]
    fn the_difference_of_two_snapshots_is_what_came_between() {
        let stats = Stats::new();
        stats.record(&message(Some(Opcode::Lookup), 5));
        let before = stats.snapshot();
        stats.record(&message(Some(Opcode::Lookup), 5));
        stats.record(&message(Some(Opcode::Read), 5));
        let between = stats.snapshot().since(&before);
        assert_eq!((between.count("LOOKUP"), between.count("READ"), between.total()), (1, 1, 2));
        assert_eq!(stats.snapshot().since(&stats.snapshot()).total(), 0);
    }
}
