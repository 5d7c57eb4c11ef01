//! Counts the requests that were taken from the queues and are not answered yet.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The number of requests that are being answered.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    count: Mutex<usize>,
    finished: Condvar,
}

/// One request; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<InFlight>);

impl InFlight {
    pub(super) fn begin(self: &Arc<Self>) -> Ticket {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ticket(Arc::clone(self))
    }

    /// Waits until there are at most `most`.
    pub(super) fn await_at_most(&self, most: usize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > most {
            count = self.finished.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.finished.notify_all();
    }
}
