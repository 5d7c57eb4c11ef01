//! What init should have set up but could not. The guest goes on without it, and the host is told as soon as possible.

use std::sync::{Mutex, PoisonError};

use guest_protocol::{MACHINE, Message, Warning};

use crate::Guest;

static NOTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes what is missing and why, in one line, for [`report`], and prints it on the console at once.
pub(crate) fn note(cause: String) {
    eprintln!("lamina: {cause}");
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).push(cause);
}

/// Sends the host what was noted since the last call.
pub(crate) fn report(guest: &Guest) {
    let noted = std::mem::take(&mut *NOTED.lock().unwrap_or_else(PoisonError::into_inner));
    for cause in noted {
        guest.send(MACHINE, Message::Warning(Warning::Missing { cause }));
    }
}
