//! How long a run waits for what.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::machine) enum Purpose {
    /// The servers create their sockets.
    Servers,
    /// The guest becomes ready.
    Ready,
    /// The command ends after it was told to.
    Command,
    /// The command ends after SIGKILL.
    Kill,
    /// The guest powers off.
    PowerOff,
    /// A guest whose kernel panicked writes why, and resets.
    Panic,
    /// The engine ends after it was killed.
    Engine,
    /// The engine ends after a server that it uses has ended. If it does, its end is the reason.
    Server,
    /// What the guest sent before the engine ended arrives, and the failure of a server that made the engine end.
    LastMessages,
}

impl Purpose {
    /// Returns how long it may take. The user can set two of them: [`Purpose::Ready`] with `--ready-timeout`, and
    /// [`Purpose::Command`] with `stop --timeout`; for a signal it is always this.
    pub(super) const fn default(self) -> Duration {
        match self {
            Self::Servers | Self::Command | Self::PowerOff | Self::Engine => Duration::from_secs(10),
            Self::Ready => Duration::from_secs(120),
            Self::Kill => Duration::from_secs(2),
            Self::Panic => Duration::from_secs(1),
            Self::Server | Self::LastMessages => Duration::from_millis(500),
        }
    }
}

/// How long a command may take to end after a signal to this process.
pub(in crate::machine) const GRACE: Duration = Purpose::Command.default();

/// The deadlines of a run, at most one for each purpose.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeMap<Purpose, Instant>);

impl Deadlines {
    /// Sets the deadline for `purpose` to its usual time after `now`.
    pub(super) fn set(&mut self, purpose: Purpose, now: Instant) {
        self.set_to(purpose, now, purpose.default());
    }

    /// Sets the deadline for `purpose` to `most` after `now`.
    pub(super) fn set_to(&mut self, purpose: Purpose, now: Instant, most: Duration) {
        // A time that the clock cannot represent is never reached.
        if let Some(at) = now.checked_add(most) {
            self.0.insert(purpose, at);
        }
    }

    pub(super) fn clear(&mut self, purpose: Purpose) {
        self.0.remove(&purpose);
    }

    pub(super) fn clear_all(&mut self) {
        self.0.clear();
    }

    /// Returns the next deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Removes and returns a deadline that has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Purpose> {
        let (&purpose, _) = self.0.iter().find(|&(_, &at)| at <= now)?;
        self.0.remove(&purpose);
        Some(purpose)
    }
}
