//! Log lines that whoever is served can cause as often as they like: a reader in a loop must not fill the disk.

use std::cmp::Ordering;

/// How many of one kind are logged before the log falls silent.
const REPORTS: u64 = 100;

/// Lets `log` say it if fewer than 100 of its kind were `seen` before, and says after those that no more of `what` will
/// be logged. The counters in [`crate::stats`] go on.
pub fn report(seen: u64, what: &str, log: impl FnOnce()) {
    match seen.cmp(&REPORTS) {
        Ordering::Less => log(),
        Ordering::Equal => tracing::error!("{what}: no more of it will be logged"),
        Ordering::Greater => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_caused_without_end_is_logged_a_hundred_times() {
        let mut logged = 0;
        (0..10 * REPORTS).for_each(|seen| report(seen, "a loop", || logged += 1));
        assert_eq!(logged, REPORTS);
    }
}
