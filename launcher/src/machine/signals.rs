//! Signals to this process, from before anything is started that they could leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};

use super::event::Event;
use crate::failure::{About, Failure, MACHINE_FAILED};

/// Catches the signals by which people and service managers end programs, and those of the terminal. One that this
/// process was started to ignore, as by nohup(1) or behind a script's `&`, stays ignored.
#[derive(Debug)]
pub(crate) struct Signals {
    caught: Arc<AtomicI32>,
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
}

impl Signals {
    /// Starts to catch them, for as long as this process lives.
    ///
    /// # Errors
    /// The handlers cannot be set.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let watched = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH];
        let watched = watched.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
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

    /// The last signal that asked this process to end, 0 before the first.
    pub(crate) fn caught(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.caught)
    }

    /// Fails if this process has been told to end.
    ///
    /// # Errors
    /// Names the signal; the exit status is 128 + its number.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.caught.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(interrupted(signal)),
        }
    }
}

/// The signals that a process ignores, a bit for each, the lowest for signal 1: `SigIgn` of proc_pid_status(5).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// The failure of a run that a signal ended.
pub(crate) fn interrupted(signal: i32) -> Failure {
    let status = u8::try_from(128 + signal).unwrap_or(MACHINE_FAILED);
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    Failure::new("run", format_args!("ended by {name}")).with_status(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tlamina\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert_eq!(ignored(status), 1 << (SIGHUP - 1) | 1 << (signal_hook::consts::SIGPIPE - 1));
        assert_eq!((ignored(""), ignored("SigIgn:\tx")), (0, 0));
    }
}
