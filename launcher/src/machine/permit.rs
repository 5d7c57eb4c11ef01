//! Back-pressure on a guest.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How many messages of a guest may wait to be handled.
pub(super) const MOST_WAITING: usize = 16;

/// Limits how many messages of a guest wait to be handled, so that a guest that sends faster than they are handled must
/// wait.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    given: Mutex<usize>,
    returned: Condvar,
}

/// Allows one message of a guest to wait. Dropped when the message has been handled.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    /// Waits until another message may wait.
    pub(crate) fn wait(permits: &Arc<Self>) -> Permit {
        let mut given = permits.given.lock().unwrap_or_else(PoisonError::into_inner);
        while *given >= MOST_WAITING {
            given = permits.returned.wait(given).unwrap_or_else(PoisonError::into_inner);
        }
        *given += 1;
        Permit(Arc::clone(permits))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.given.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.returned.notify_one();
    }
}
