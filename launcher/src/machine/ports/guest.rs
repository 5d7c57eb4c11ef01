//! The guest, as the connections of published ports see it.

use guest_protocol::Message;

use super::FIRST_STREAM;
use crate::machine::session::Control;

/// How many bytes may wait for the guest before no more is read from clients.
const MOST_WAITING: usize = 1 << 20;

/// Hands out stream numbers, and sends.
#[derive(Debug)]
pub(super) struct Guest {
    control: Control,
    next: u32,
}

impl Guest {
    pub(super) const fn new(control: Control) -> Self {
        Self { control, next: FIRST_STREAM }
    }

    /// Returns a number for a new stream. `None` after about two billion streams.
    pub(super) fn new_stream(&mut self) -> Option<u32> {
        let number = self.next;
        self.next = number.checked_add(1)?;
        Some(number)
    }

    /// Sends a message. Returns `false` if its stream has ended, or its window has no room.
    pub(super) fn send(&self, stream: u32, message: Message) -> bool {
        self.control.send(stream, message)
    }

    /// Returns whether so much waits for the guest that no more should be read from clients.
    pub(super) fn is_slow(&self) -> bool {
        self.control.waiting() > MOST_WAITING
    }
}
