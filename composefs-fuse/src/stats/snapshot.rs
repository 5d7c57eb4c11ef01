//! The counters at one moment, as they are shown and sent.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The counters of a server at one moment. As JSON this is what the statistics socket answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The time since the server was created.
    pub uptime_milliseconds: u64,
    /// The counters of each kind of message, by the kernel's names without `FUSE_`, and `UNKNOWN`. Kinds that never came are
    /// left out.
    pub messages: BTreeMap<String, Counts>,
    /// Opens that reached the server: `OPEN` messages. A kernel that opens without messages sends one, which is refused.
    pub opened_files: u64,
    /// Reads of the beginning of a file. If opens cost no message, this is close to the number of files that were opened
    /// for the first time, or again after the kernel had dropped their pages.
    pub begun_files: u64,
    /// Bytes of all requests.
    pub received_bytes: u64,
    /// Bytes of all replies.
    pub sent_bytes: u64,
    /// Bytes of file content in the replies.
    pub content_bytes: u64,
    /// Requests that were too short or too malformed to be answered.
    pub malformed: u64,
    /// Requests whose handler panicked; each was answered `EIO`.
    pub panics: u64,
    /// Reads that failed because a layer's blob is damaged or unreadable; each was answered `EIO`.
    pub damaged: u64,
    /// How often a guest notified a queue that could not be read. Never happens with a mount.
    pub broken_queues: u64,
}

/// The counters of one kind of message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// How many messages there were.
    pub count: u64,
    /// How many of them were answered with an error, `ENOSYS` included.
    pub errors: u64,
    /// Time spent answering them.
    pub nanoseconds: u64,
    /// A histogram: element `n` counts messages that took at least 2^(n-1) and less than 2^n nanoseconds, and element 0
    /// those that took less than one. Zeros at the end are left out.
    pub latency: Vec<u64>,
}

impl Snapshot {
    /// Returns how many messages of one kind there were.
    #[must_use]
    pub fn count(&self, kind: &str) -> u64 {
        self.messages.get(kind).map_or(0, |counts| counts.count)
    }

    /// Returns how many messages of all kinds there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.messages.values().map(|counts| counts.count).sum()
    }

    /// Returns what was counted since `earlier`, a snapshot of the same server.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let none = Counts::default();
        let messages = self.messages.iter().filter_map(|(kind, counts)| {
            let between = counts.since(earlier.messages.get(kind).unwrap_or(&none));
            (between.count > 0).then(|| (kind.clone(), between))
        });
        Self {
            uptime_milliseconds: self.uptime_milliseconds.saturating_sub(earlier.uptime_milliseconds),
            messages: messages.collect(),
            opened_files: self.opened_files.saturating_sub(earlier.opened_files),
            begun_files: self.begun_files.saturating_sub(earlier.begun_files),
            received_bytes: self.received_bytes.saturating_sub(earlier.received_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(earlier.sent_bytes),
            content_bytes: self.content_bytes.saturating_sub(earlier.content_bytes),
            malformed: self.malformed.saturating_sub(earlier.malformed),
            panics: self.panics.saturating_sub(earlier.panics),
            damaged: self.damaged.saturating_sub(earlier.damaged),
            broken_queues: self.broken_queues.saturating_sub(earlier.broken_queues),
        }
    }
}

impl Counts {
    fn since(&self, earlier: &Self) -> Self {
        let bucket = |index| earlier.latency.get(index).copied().unwrap_or(0);
        let latency = self.latency.iter().enumerate().map(|(index, count)| count.saturating_sub(bucket(index)));
        let latency = without_trailing_zeros(latency.collect());
        Self {
            count: self.count.saturating_sub(earlier.count),
            errors: self.errors.saturating_sub(earlier.errors),
            nanoseconds: self.nanoseconds.saturating_sub(earlier.nanoseconds),
            latency,
        }
    }

    /// Returns an upper bound in nanoseconds for the latency of `percent` of the messages: a power of two.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> u64 {
        let total: u64 = self.latency.iter().sum();
        let wanted = total.saturating_mul(percent).div_ceil(100);
        let mut seen = 0;
        for (power, count) in self.latency.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return 1_u64.checked_shl(u32::try_from(power).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
            }
        }
        0
    }
}

/// Removes the zeros at the end of a histogram.
pub(super) fn without_trailing_zeros(mut buckets: Vec<u64>) -> Vec<u64> {
    while buckets.last() == Some(&0) {
        buckets.pop();
    }
    buckets
}

/// The table that `lamina stats` shows and `--verbose` prints at the end.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>12}{:>10}{:>12}{:>12}{:>12}",
            "message", "count", "errors", "mean us", "50% < us", "99% < us"
        )?;
        for (kind, counts) in &self.messages {
            let mean = counts.nanoseconds as f64 / counts.count.max(1) as f64 / 1e3;
            let microseconds = |percent| counts.percentile(percent) as f64 / 1e3;
            let (half, most) = (microseconds(50), microseconds(99));
            let Counts { count, errors, .. } = counts;
            writeln!(f, "{kind:<16}{count:>12}{errors:>10}{mean:>12.1}{half:>12.1}{most:>12.1}")?;
        }
        writeln!(f, "{:<16}{:>12}", "all", self.total())?;
        writeln!(f, "files: {} read from the beginning, {} opened by a message", self.begun_files, self.opened_files)?;
        writeln!(
            f,
            "bytes: {} of content, {} sent, {} received; damaged reads: {}, malformed: {}, panics: {}, broken queues: {}",
            self.content_bytes,
            self.sent_bytes,
            self.received_bytes,
            self.damaged,
            self.malformed,
            self.panics,
            self.broken_queues
        )
    }
}
