//! Lets a caller watch and cancel a long operation.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The state of one layer of a pull, an import or a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LayerState {
    /// It has not been started yet.
    Waiting,
    /// It is being fetched or read, and ingested as it arrives.
    Fetching,
    /// It is being compressed for a push.
    Compressing,
    /// It is being sent.
    Sending,
    /// Where it goes to already has it: nothing is transferred.
    Present,
    /// It is where it goes to, and verified.
    Done,
}

/// One layer's progress at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress<'a> {
    /// A name for the layer: the first 12 hex digits of its digest, or else its name in the archive.
    pub name: &'a str,
    /// Its state.
    pub state: LayerState,
    /// Bytes received so far, as transferred: compressed if the layer is compressed.
    pub bytes: u64,
    /// The total number of bytes, if the sender says so.
    pub total: Option<u64>,
}

/// Watches one operation and can cancel it.
///
/// Every method has a default implementation, so an implementation only needs the methods that it uses. The methods may
/// be called often, and from several threads at once.
pub trait Observer: Send + Sync + Debug {
    /// Called once before the operation waits for another process that does the same work. `work` completes the
    /// sentence "waiting for another process that ...".
    fn waiting(&self, work: &str) {
        self.notice(&format!("waiting for another process that {work}"));
    }

    /// Called when `bytes` more bytes of content are done.
    fn progress(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Called when the state of a layer of a pull or an import has changed, or more of its bytes have arrived.
    fn layer(&self, progress: &LayerProgress<'_>) {
        let _ = progress;
    }

    /// Called with one line about something that the user should know but that is not a failure, such as a wait before
    /// another attempt.
    fn notice(&self, line: &str) {
        tracing::info!("{line}");
    }

    /// Whether to cancel the operation. This is polled. A cancelled operation fails with a specific error and leaves
    /// nothing unfinished.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never cancels. Notices go to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// The observer of operations that have none: a wait is logged as a warning, because the user will notice it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged;

impl Observer for Logged {
    fn notice(&self, line: &str) {
        tracing::warn!("{line}");
    }
}

/// A flag that cancels an operation. Clones share the flag, and once set it stays set.
///
/// It is an [`Observer`] that does nothing else, and can be a part of other observers.
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

    /// Returns the flag itself, for a signal handler, which may do little more than set it.
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

/// The observer of a part of an operation. It forwards everything, and the part can be cancelled by itself.
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

    /// Resolves once this part is cancelled. It polls, because a signal handler cannot wake a task.
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

/// How often an operation that waits checks whether it is cancelled: a user does not notice the delay, and it costs
/// little processor time.
pub(crate) const CANCELLATION_POLL: Duration = Duration::from_millis(50);
