//! What waits to be sent over a control channel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};

use guest_protocol::{Channel, MAX_PAYLOAD};
use zeroize::Zeroizing;

/// The most bytes that may wait. Input is limited by its windows and credit is added up, so only a receiver that has
/// stopped reading lets so many requests of the user's commands wait.
const MOST: usize = 2 * MAX_PAYLOAD;

/// The frames that wait for the thread that writes them. Putting one in never waits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// May hold secrets.
    frames: VecDeque<Zeroizing<Vec<u8>>>,
    bytes: usize,
    /// What must be returned to the other side, for each channel of each stream.
    credit: BTreeMap<(u32, u8), (Channel, u32)>,
    closed: bool,
}

/// What must be written next.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) frames: VecDeque<Zeroizing<Vec<u8>>>,
    /// Streams and channels with the bytes to return.
    pub(super) credit: Vec<(u32, Channel, u32)>,
}

impl Outbox {
    /// Adds a frame. Returns whether there was room for it.
    #[must_use]
    pub(super) fn put(&self, frame: Vec<u8>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = state.bytes.saturating_add(frame.len());
        if bytes > MOST {
            return false;
        }
        state.bytes = bytes;
        state.frames.push_back(Zeroizing::new(frame));
        self.changed.notify_one();
        true
    }

    /// Adds credit to what waits for the same channel.
    pub(super) fn add_credit(&self, stream: u32, channel: Channel, bytes: u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = state.credit.entry((stream, channel as u8)).or_insert((channel, 0));
        waiting.1 = waiting.1.saturating_add(bytes);
        self.changed.notify_one();
    }

    /// Waits until there is something to write, and takes all of it. Returns `None` once the outbox is closed and empty.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.frames.is_empty() && state.credit.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let credit = std::mem::take(&mut state.credit);
        Some(Taken {
            frames: std::mem::take(&mut state.frames),
            credit: credit.into_iter().map(|((stream, _), (channel, bytes))| (stream, channel, bytes)).collect(),
        })
    }

    /// Notes that a frame of this many bytes has been written.
    pub(super) fn written(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Returns how many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Ends it: nothing more is put in.
    pub(super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_credit_takes_no_room() {
        let outbox = Outbox::default();
        let frame = || vec![0; MAX_PAYLOAD];
        assert!(outbox.put(frame()) && outbox.put(frame()) && !outbox.put(vec![0]));
        for _ in 0..1000 {
            outbox.add_credit(1, Channel::Stdout, 13);
            outbox.add_credit(1, Channel::Stderr, 1);
        }
        let taken = outbox.take().unwrap();
        assert_eq!(taken.frames.len(), 2);
        assert_eq!(taken.credit, [(1, Channel::Stdout, 13_000), (1, Channel::Stderr, 1000)]);
        assert!(!outbox.put(vec![0]), "what has been taken still waits until it is written");
        outbox.written(MAX_PAYLOAD);
        assert!(outbox.put(vec![0]));
        outbox.close();
        assert!(outbox.take().is_some() && outbox.take().is_none());
    }
}
