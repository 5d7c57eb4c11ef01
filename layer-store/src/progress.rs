//! How a caller watches layers come in, and stops them.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where one layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerState {
    /// Its turn has not come.
    Waiting,
    /// It is being fetched or read, and ingested as it comes.
    Fetching,
    /// The store has it already: nothing is fetched.
    Present,
    /// It is in the store, verified.
    Done,
}

/// One layer's progress at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress<'a> {
    /// What to call the layer: the first 12 hex digits of its digest, else its name in the archive.
    pub name: &'a str,
    /// Where it stands.
    pub state: LayerState,
    /// Bytes received so far, as they travel: compressed where the layer is.
    pub bytes: u64,
    /// Bytes there will be, where the sender says so.
    pub total: Option<u64>,
}

/// Is told how a pull or an import gets on; called from several threads at once, and often.
pub trait Progress: Send + Sync + Debug {
    /// A layer changed its state, or more of its bytes came.
    fn layer(&self, progress: &LayerProgress<'_>);

    /// Something the user should know that is no failure, such as a wait before another attempt: one line.
    fn notice(&self, line: &str);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn layer(&self, _progress: &LayerProgress<'_>) {}

    fn notice(&self, line: &str) {
        tracing::info!("{line}");
    }
}

/// A flag that ends a pull or an import early, leaving nothing behind.
///
/// Clones share the flag. What is cancelled stays cancelled.
#[derive(Clone, Debug, Default)]
pub struct Cancellation {
    own: Arc<AtomicBool>,
    parent: Option<Arc<AtomicBool>>,
}

impl Cancellation {
    /// Asks for the end; returns at once.
    pub fn cancel(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.own.load(Ordering::Relaxed) || self.parent.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// The flag itself, for a signal handler to set: a handler may do little more.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.own)
    }

    /// A part of the work that is cancelled with the whole, and can be cancelled alone.
    pub(crate) fn child(&self) -> Self {
        Self { own: Arc::default(), parent: Some(self.flag()) }
    }

    /// Resolves once cancelled. It polls, because a signal handler can wake nobody.
    pub(crate) async fn cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(CANCELLATION_POLL).await;
        }
    }
}

/// How long a cancelled transfer may go on waiting: short for a person, rare for a processor.
pub(crate) const CANCELLATION_POLL: Duration = Duration::from_millis(50);
