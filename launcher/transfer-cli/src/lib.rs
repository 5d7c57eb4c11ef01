//! What the commands of `lamina` and `lamina-containerd` that move images share: options, progress lines, signals, and hints
//! about errors of the store.

mod bars;
mod limits;
mod policy_args;
mod registry_args;
mod signals;
mod size;
mod wrong_option;

pub mod hint;

pub use bars::Bars;
pub use limits::{LimitArgs, SharingArgs, parse_parallel};
pub use policy_args::PolicyArgs;
pub use registry_args::{CredsArg, RegistryArgs};
pub use signals::cancel_on_signal;
pub use size::parse_size;
pub use wrong_option::WrongOption;

use std::sync::Arc;

use layer_store::{Acquired, Observer, PullError, PullOptions, Reference, Store};

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
