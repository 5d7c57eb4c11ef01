//! One call at a time for each name.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The names that calls work on.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    queues: Mutex<BTreeMap<String, Queue>>,
    ended: Condvar,
}

/// The calls for one name, which have numbers in the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    /// The number of the call that works.
    working: u64,
    /// The number of the next call that comes.
    next: u64,
}

/// The right to work on a name.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    busy: &'a Busy,
    name: String,
}

impl Busy {
    /// Waits until no earlier call works on this name.
    pub(crate) fn wait_for(&self, name: &str) -> Turn<'_> {
        let mut queues = self.queues();
        let queue = queues.entry(name.to_owned()).or_default();
        let number = queue.next;
        queue.next += 1;
        let is_later =
            |queues: &mut BTreeMap<String, Queue>| queues.get(name).is_some_and(|queue| queue.working != number);
        drop(self.ended.wait_while(queues, is_later).unwrap_or_else(PoisonError::into_inner));
        Turn { busy: self, name: name.to_owned() }
    }

    /// Returns how many calls work on this name or wait for it.
    #[cfg(test)]
    pub(crate) fn calls(&self, name: &str) -> u64 {
        self.queues().get(name).map_or(0, |queue| queue.next - queue.working)
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queues = self.busy.queues();
        if let Some(queue) = queues.get_mut(&self.name) {
            queue.working += 1;
            if queue.working == queue.next {
                queues.remove(&self.name);
            }
        }
        self.busy.ended.notify_all();
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
        assert!(busy.queues().is_empty());
    }

    #[test]
    fn calls_work_in_the_order_in_which_they_came() {
        let (busy, order) = (Busy::default(), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let first = busy.wait_for("name");
            for number in 0..4 {
                let (busy, order) = (&busy, &order);
                scope.spawn(move || {
                    let _turn = busy.wait_for("name");
                    order.lock().unwrap().push(number);
                });
                while busy.calls("name") < number + 2 {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3]);
    }
}
