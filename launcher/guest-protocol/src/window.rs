//! A sender's view of one channel's window.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::{HEADER, WINDOW};

/// The bytes that may still be sent on one channel before its receiver returns some of them.
#[derive(Debug)]
pub struct Window {
    left: Mutex<Option<u32>>,
    changed: Condvar,
}

impl Default for Window {
    fn default() -> Self {
        Self { left: Mutex::new(Some(WINDOW)), changed: Condvar::new() }
    }
}

impl Window {
    /// Waits until a frame with at least one byte may be sent. Returns how many bytes may be in it, at most `most`, or
    /// `None` once the channel is closed. They stay available until [`Window::spend`] takes them.
    #[must_use]
    pub fn wait(&self, most: usize) -> Option<usize> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *left {
                None => return None,
                Some(bytes) if bytes as usize > HEADER => return Some(most.min(bytes as usize - HEADER)),
                Some(_) => left = self.changed.wait(left).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Takes what a frame with `bytes` costs, which [`Window::wait`] has granted. Only one thread may send on a channel.
    pub fn spend(&self, bytes: usize) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.map(|have| have.saturating_sub(cost(bytes)));
    }

    /// Adds `bytes`, which the receiver has passed on, to what may be sent. That is never more than [`WINDOW`].
    pub fn credit(&self, bytes: u32) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.map(|have| have.saturating_add(bytes).min(WINDOW));
        self.changed.notify_all();
    }

    /// Ends the channel: every present and later wait returns `None`.
    pub fn close(&self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }
}

/// Returns how much of a window a frame with this many bytes takes: its header counts, so that what the receiver holds
/// is bounded for short frames too.
#[must_use]
pub fn cost(bytes: usize) -> u32 {
    u32::try_from(HEADER + bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_runs_dry_and_is_refilled_by_credit() {
        let window = Window::default();
        assert_eq!(window.wait(10), Some(10));
        assert_eq!(window.wait(usize::MAX), Some(WINDOW as usize - HEADER));
        window.spend(WINDOW as usize - HEADER);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| window.wait(100));
            window.credit(12);
            window.credit(7);
            assert_eq!(waiting.join().unwrap(), Some(7));
        });
    }

    #[test]
    fn closing_wakes_the_sender() {
        let window = Window::default();
        window.spend(WINDOW as usize);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| window.wait(1));
            window.close();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }

    #[test]
    fn a_receiver_that_returns_too_much_gains_nothing() {
        let window = Window::default();
        window.credit(u32::MAX);
        assert_eq!(window.wait(usize::MAX), Some(WINDOW as usize - HEADER));
    }
}
