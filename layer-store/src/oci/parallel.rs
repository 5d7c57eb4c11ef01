//! Work on several layers at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does `work` on every item, on up to `threads` threads, and returns the results in the items' order.
///
/// The items with the greatest `weight` start first, so that no large one is left for the end. The first
/// error calls `stop`, which should make the remaining work end early, and is returned once every thread has stopped.
pub(crate) fn for_each<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    stop: &(dyn Fn() + Sync),
    weight: impl Fn(&T) -> u64,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let mut order: Vec<(usize, &T)> = items.iter().enumerate().collect();
    order.sort_by_key(|(_, item)| std::cmp::Reverse(weight(item)));
    let next = AtomicUsize::new(0);
    let finished = Mutex::new((Vec::with_capacity(items.len()), None));
    let worker = || {
        while let Some(&(position, item)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = work(item);
            let mut finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(result) => finished.0.push((position, result)),
                Err(error) => {
                    // The errors after the first are its consequences.
                    finished.1.get_or_insert(error);
                    stop();
                }
            }
            if finished.1.is_some() {
                break;
            }
        }
    };
    thread::scope(|scope| {
        // This thread works too, so if no more threads can be started, it only takes longer.
        for _ in 1..threads.min(items.len()) {
            let _ = thread::Builder::new().name("layer".to_owned()).spawn_scoped(scope, worker);
        }
        worker();
    });
    let (mut results, error) = finished.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    results.sort_by_key(|(position, _)| *position);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cancellation;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let halt = Cancellation::default();
        let doubled = for_each(&[3_u64, 1, 2], 2, &|| halt.cancel(), |n| *n, |n| Ok::<_, ()>(n * 2)).unwrap();
        assert_eq!(doubled, [6, 2, 4]);
    }

    #[test]
    fn the_first_error_stops_the_rest_and_is_the_one_returned() {
        let halt = Cancellation::default();
        let started = AtomicUsize::new(0);
        let outcome = for_each(
            &[9_u64, 8, 7, 6],
            2,
            &|| halt.cancel(),
            |n| *n,
            |n| {
                started.fetch_add(1, Ordering::Relaxed);
                if *n == 9 {
                    return Err::<usize, _>("nine");
                }
                while !halt.is_cancelled() {
                    thread::yield_now();
                }
                Err("cancelled")
            },
        );
        assert_eq!(outcome.unwrap_err(), "nine");
        assert!(started.into_inner() <= 2);
    }

    #[test]
    fn nothing_to_do_is_done() {
        let none: Vec<()> = for_each(&[(); 0], 4, &|| (), |()| 0, |()| Ok::<_, ()>(())).unwrap();
        assert!(none.is_empty());
    }
}
