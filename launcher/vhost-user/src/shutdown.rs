//! How a device is told to end, whether it waits for its VMM, serves it, or is between the two.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use vhost_user_backend::ShutdownHandle;

/// Whether a device has been told to end, and which connection to end then. Its owner and the serving thread share
/// this.
#[derive(Default)]
pub(crate) struct Shutdown {
    stopped: AtomicBool,
    connection: Mutex<Option<ShutdownHandle>>,
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shutdown").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

impl Shutdown {
    /// Marks the device as stopped and ends its connection, if it has one. A connection that is made later is ended by
    /// [`Shutdown::connected`].
    pub(crate) fn hang_up(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(connection) = &*self.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            connection.shutdown();
        }
    }

    /// Returns whether the device has been told to end, or its connection has.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Keeps the connection of the device, and ends it at once if the device has been told to end in the meantime.
    pub(crate) fn connected(&self, connection: Option<ShutdownHandle>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        if self.has_stopped() {
            self.hang_up();
        }
    }

    /// Marks the device as stopped because its connection has ended.
    pub(crate) fn disconnected(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
