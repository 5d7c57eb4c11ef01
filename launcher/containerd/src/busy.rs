//! One call at a time for each name.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The names that calls work on.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    names: Mutex<BTreeSet<String>>,
    freed: Condvar,
}

/// The right to work on a name.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    busy: &'a Busy,
    name: String,
}

impl Busy {
    /// Waits until no other call works on this name.
    pub(crate) fn wait_for(&self, name: &str) -> Turn<'_> {
        let names = self.freed.wait_while(self.names(), |names| names.contains(name));
        names.unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Turn { busy: self, name: name.to_owned() }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy.names().remove(&self.name);
        self.busy.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_call_at_a_time_works_on_a_name() {
        let (busy, inside) = (Busy::default(), AtomicU32::new(0));
        let other = busy.wait_for("other");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _turn = busy.wait_for("name");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        drop(other);
        assert!(busy.names().is_empty());
    }
}
