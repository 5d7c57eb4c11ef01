//! What the commands of `lamina` and `lamina-containerd` that move images share: options, progress lines, signals, and hints
//! about errors of the store.

mod bars;
mod limits;
mod registry_args;

pub mod hint;

pub use bars::Bars;
pub use limits::{LimitArgs, SharingArgs, parse_parallel, parse_size};
pub use registry_args::{CredsArg, PolicyArgs, RegistryArgs, WrongOption};

use std::io;
use std::sync::Arc;

use layer_store::{Acquired, Cancellation, Observer, PullError, PullOptions, Reference, Store};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag};

/// Pulls the first of several images that exists: a name without a registry may mean any of them.
///
/// # Errors
/// What failed for the last one. No other one is tried after the pull was cancelled, or the store failed.
pub fn pull_first(
    store: &Store,
    references: &[Reference],
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Acquired, PullError> {
    let mut references = references.iter().peekable();
    loop {
        let Some(reference) = references.next() else {
            return Err(PullError::Cancelled);
        };
        match store.images().pull(reference, options, observer) {
            Err(error)
                if references.peek().is_some() && !matches!(error, PullError::Cancelled | PullError::Store(_)) =>
            {
                observer.notice(&format!("{}: {error}; the next registry is tried", reference.familiar()));
            }
            outcome => return outcome,
        }
    }
}

/// Makes Ctrl-C and SIGTERM cancel a transfer, which then cleans up; a second signal ends the program. Returns what was
/// registered, for callers that do something else after the transfer.
///
/// # Errors
/// The signals cannot be waited for.
pub fn cancel_on_signal(cancellation: &Cancellation) -> io::Result<Vec<SigId>> {
    let mut registered = Vec::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let flag = cancellation.flag();
        registered.push(flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&flag))?);
        registered.push(flag::register(signal, flag)?);
    }
    Ok(registered)
}
