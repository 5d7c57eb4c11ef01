//! The places from which an image can be fetched: mirrors, and the registry itself.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::client::{Repository, Scope};
use super::{PullError, PullOptions, wait};
use crate::observer::Halt;
use crate::registries::{Endpoint, Registries};
use crate::{Observer, Reference};

/// Does `work` at the first place of an image where it can be done.
pub(super) fn first<T>(
    runtime: &Runtime,
    reference: &Reference,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
    mut work: impl FnMut(&Arc<Repository>, &Halt) -> Result<T, PullError>,
) -> Result<T, PullError> {
    let registries = Registries::read(&options.registries)?;
    let mut endpoints = registries.sources(reference)?.into_iter().peekable();
    loop {
        let Some(endpoint) = endpoints.next() else {
            return Err(PullError::Client("it has no place to be fetched from".into()));
        };
        let Endpoint { reference: place, .. } = &endpoint;
        let options = options.at(&endpoint, reference.registry());
        // A failure at one place cancels what else is done there, and nothing at the next.
        let halt = Halt::new(observer);
        let opened = wait(runtime, &halt, Repository::open(place, &options, Scope::pull(), observer));
        match opened.and_then(|repository| work(&Arc::new(repository), &halt)) {
            Err(error) if endpoints.peek().is_some() && !is_own(&error) => {
                observer.notice(&format!("{}: {error}; the next place is tried", place.familiar()));
            }
            outcome => return outcome,
        }
    }
}

/// Whether an error would be the same at every place.
fn is_own(error: &PullError) -> bool {
    matches!(error, PullError::Cancelled | PullError::Store(_) | PullError::Policy(_) | PullError::CaFile { .. })
}
