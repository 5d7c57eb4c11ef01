//! How a caller watches an operation that takes time, and ends it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The state of one layer of a pull or an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerState {
    /// It has not been started yet.
    Waiting,
    /// It is being fetched or read, and ingested as it arrives.
    Fetching,
    /// The store has it already: nothing is fetched.
    Present,
    /// It is in the store, verified.
    Done,
}

/// One layer's progress at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress<'a> {
    /// A name for the layer: the first 12 hex digits of its digest, else its name in the archive.
    pub name: &'a str,
    /// Its state.
    pub state: LayerState,
    /// Bytes received so far, as transferred: compressed if the layer is compressed.
    pub bytes: u64,
    /// The total number of bytes, if the sender says so.
    pub total: Option<u64>,
}

/// Watches one operation and can end it.
///
/// Every method has a default that ignores the event, so an implementation has only those that it needs. The methods
/// may be called from several threads at once, and often.
pub trait Observer: Send + Sync + Debug {
    /// The operation waits for another process that does the same work. `work` completes the sentence "waiting for
    /// another process that ...". It is called once for each wait, before the wait begins.
    fn waiting(&self, work: &str) {
        self.notice(&format!("waiting for another process that {work}"));
    }

    /// `bytes` more bytes of content are done.
    fn progress(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The state of a layer of a pull or an import changed, or more of its bytes arrived.
    fn layer(&self, progress: &LayerProgress<'_>) {
        let _ = progress;
    }

    /// Something that the user should know and that is no failure, such as a wait before another attempt: one line.
    fn notice(&self, line: &str) {
        tracing::info!("{line}");
    }

    /// Whether the operation is to end. It is polled, and the operation then fails with an error of its own and leaves
    /// nothing unfinished.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never cancels. Notices go to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// For operations that have no observer: a wait is logged as a warning, because a user notices it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged;

impl Observer for Logged {
    fn notice(&self, line: &str) {
        tracing::warn!("{line}");
    }
}

/// A flag that cancels an operation. Clones share the flag, and once set it stays set.
///
/// It is an [`Observer`] that watches nothing else, and a part for observers that do.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Sets the flag; returns at once.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler, which may do little more than set it.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Observer for Cancellation {
    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }
}

/// The observer of a part of an operation: it passes everything on, and can be cancelled without the whole.
#[derive(Clone, Debug)]
pub(crate) struct Halt {
    own: Cancellation,
    whole: Arc<dyn Observer>,
}

impl Halt {
    pub(crate) fn new(whole: &Arc<dyn Observer>) -> Self {
        Self { own: Cancellation::default(), whole: Arc::clone(whole) }
    }

    /// Cancels this part.
    pub(crate) fn cancel(&self) {
        self.own.cancel();
    }

    /// Resolves once cancelled. It polls, because a signal handler cannot wake a task.
    pub(crate) async fn wait(&self) {
        while !self.cancelled() {
            tokio::time::sleep(CANCELLATION_POLL).await;
        }
    }
}

impl Observer for Halt {
    fn waiting(&self, work: &str) {
        self.whole.waiting(work);
    }

    fn progress(&self, bytes: u64) {
        self.whole.progress(bytes);
    }

    fn layer(&self, progress: &LayerProgress<'_>) {
        self.whole.layer(progress);
    }

    fn notice(&self, line: &str) {
        self.whole.notice(line);
    }

    fn cancelled(&self) -> bool {
        self.own.is_cancelled() || self.whole.cancelled()
    }
}

/// How long a cancelled operation may go on waiting: short for a person, rare for a processor.
pub(crate) const CANCELLATION_POLL: Duration = Duration::from_millis(50);
