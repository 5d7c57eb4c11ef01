//! Errors of unpacked trees, which only Linux has.

use std::any::Any;
use std::error::Error;

use layer_store::{MaterializeError, StoreError, TreeError};

/// Returns a value as an error, if it is an error of an unpacked tree.
pub(super) fn of(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    let tree = error.downcast_ref::<TreeError>().map(|error| error as &(dyn Error + 'static));
    tree.or_else(|| error.downcast_ref::<MaterializeError>().map(|error| error as &(dyn Error + 'static)))
}

/// Returns the error of the store that an error wraps.
pub(super) fn store_error<'error>(error: &'error (dyn Error + 'static)) -> Option<&'error StoreError> {
    match error.downcast_ref()? {
        TreeError::Store(error) => Some(error),
        _ => None,
    }
}

/// Returns what helps against an error.
pub(super) fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match error.downcast_ref()? {
        MaterializeError::Exposed(_) => {
            Some("make a directory that only root can enter (mkdir -m 700), and unpack below it")
        }
        _ => None,
    }
}
