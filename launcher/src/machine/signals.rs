//! Signals to this process, caught before it starts anything that a signal could leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};

use super::event::Event;
use crate::failure::{About, Failure, MACHINE_FAILED};

/// Catches the signals with which people and service managers end programs, and those of the terminal. A signal that
/// this process was started to ignore, as by nohup(1) or in a script's `&`, stays ignored.
///
/// The first signal is for the code that checks for it or takes it from the inbox. If no code does (during a wait for a
/// lock of the store, or for a program that does not end), the second signal ends this process. The machine's cleaner
/// and the next command then clean up, as after a kill.
#[derive(Debug)]
pub(crate) struct Signals {
    caught: Arc<AtomicI32>,
    /// How many loops take signals from the inbox.
    attended: Arc<AtomicUsize>,
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
}

/// The same signal twice within this time counts once.
const TWICE: Duration = Duration::from_millis(100);

impl Signals {
    /// Starts to catch them, for as long as this process runs.
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
        let attended = Arc::new(AtomicUsize::new(0));
        let (sender, last, taken) = (events.clone(), Arc::clone(&caught), Arc::clone(&attended));
        std::thread::spawn(move || {
            let mut before: Option<(i32, Instant)> = None;
            for signal in signals.forever() {
                let again = before.replace((signal, Instant::now()));
                // timeout(1) sends a signal to the process and then to its group: that is one.
                if signal != SIGWINCH && again.is_some_and(|(same, at)| same == signal && at.elapsed() < TWICE) {
                    continue;
                }
                let second = signal != SIGWINCH && last.swap(signal, Ordering::Relaxed) != 0;
                if second && taken.load(Ordering::Relaxed) == 0 {
                    let failure = interrupted(signal);
                    tell!("lamina: {failure}");
                    std::process::exit(failure.status().into());
                }
                if sender.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { caught, attended, events, inbox })
    }

    /// While the returned value exists, every signal is for the loop that reads the inbox.
    #[must_use]
    pub(crate) fn attend(&self) -> Attended {
        self.attended.fetch_add(1, Ordering::Relaxed);
        Attended(Arc::clone(&self.attended))
    }

    /// Returns a signal that has arrived, for a loop that passes signals on to a command.
    pub(crate) fn next_to_pass_on(&self) -> Option<u32> {
        self.inbox.try_iter().find_map(|event| match event {
            Event::Signal(signal) if signal != SIGWINCH => Some(signal.unsigned_abs()),
            _ => None,
        })
    }

    /// Returns the last signal that asked this process to end, or 0 before the first.
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

/// A loop that takes signals: see [`Signals::attend`].
#[derive(Debug)]
pub(crate) struct Attended(Arc<AtomicUsize>);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the signals that a process ignores, as a bit mask with the lowest bit for signal 1: `SigIgn` of
/// proc_pid_status(5).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Returns the failure of a run that a signal ended.
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
