//! A system on which no tree is unpacked.

use std::any::Any;
use std::error::Error;

use layer_store::StoreError;

pub(super) fn of(_error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    None
}

pub(super) fn store_error<'error>(_error: &'error (dyn Error + 'static)) -> Option<&'error StoreError> {
    None
}

pub(super) fn hint(_error: &(dyn Error + 'static)) -> Option<&'static str> {
    None
}
