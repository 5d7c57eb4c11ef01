//! Signals to this process, from before anything is started that they could leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};

use super::event::Event;
use crate::failure::{About, Failure, MACHINE_FAILED};

/// Catches the signals by which people and service managers end programs, and those of the terminal.
#[derive(Debug)]
pub struct Signals {
    caught: Arc<AtomicI32>,
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
}

impl Signals {
    /// Starts to catch them, for as long as this process lives.
    ///
    /// # Errors
    /// The handlers cannot be set.
    pub fn catch() -> Result<Self, Failure> {
        let watched = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH];
        let mut signals = signal_hook::iterator::Signals::new(watched).about("signal handlers")?;
        let (events, inbox) = channel();
        let caught = Arc::new(AtomicI32::new(0));
        let (sender, last) = (events.clone(), Arc::clone(&caught));
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if signal != SIGWINCH {
                    last.store(signal, Ordering::Relaxed);
                }
                if sender.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { caught, events, inbox })
    }

    /// Fails if this process has been told to end.
    ///
    /// # Errors
    /// Names the signal; the exit status is 128 + its number.
    pub fn check(&self) -> Result<(), Failure> {
        match self.caught.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(interrupted(signal)),
        }
    }
}

/// The failure of a run that a signal ended.
pub(crate) fn interrupted(signal: i32) -> Failure {
    let status = u8::try_from(128 + signal).unwrap_or(MACHINE_FAILED);
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    Failure::new("run", format_args!("ended by {name}")).with_status(status)
}
