//! What every command of `lamina` fails with: one line that names the thing, the cause and a hint.

use std::fmt;

use serde::{Deserialize, Serialize};
use transfer_cli::WrongOption;

/// A failure as the user reads it: `<thing>: <cause>; <hint>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    thing: String,
    cause: String,
    hint: Option<String>,
    status: u8,
}

/// The exit status of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// The exit status of wrong usage, the one that clap uses too.
pub(crate) const USAGE: u8 = 2;
/// The exit status of a command that exits with the status of a command in a machine, if that command was never run:
/// the machine failed, or something before it.
pub(crate) const MACHINE_FAILED: u8 = 125;

impl Failure {
    /// `thing` failed because of `cause`.
    pub(crate) fn new(thing: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self { thing: thing.to_string(), cause: cause.to_string(), hint: None, status: FAILED }
    }

    /// Creates the failure of an error, with a hint if an option of `lamina` helps against this error of the store.
    pub(crate) fn of(thing: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { hint: crate::hint::hint(error), ..Self::new(thing, error) }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub(crate) fn with_hint(self, hint: impl fmt::Display) -> Self {
        Self { hint: Some(hint.to_string()), ..self }
    }

    /// Sets the exit status, [`FAILED`] by default.
    #[must_use]
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// Changes [`FAILED`] and [`USAGE`] to [`MACHINE_FAILED`], for a command that exits with the status of another command,
    /// which may be 1 or 2 too.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub(crate) fn before_the_command(self) -> Self {
        if matches!(self.status, FAILED | USAGE) { self.with_status(MACHINE_FAILED) } else { self }
    }

    /// Returns what failed and why, without the hint.
    #[must_use]
    pub(crate) fn complaint(&self) -> String {
        format!("{}: {}", self.thing, self.cause)
    }

    /// Returns why it failed, without what failed.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }

    /// Returns what the user can do about it, if that is known.
    #[must_use]
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the exit status of a command that ends with this failure.
    #[must_use]
    pub(crate) const fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.thing, self.cause)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<WrongOption> for Failure {
    fn from(wrong: WrongOption) -> Self {
        Self::new(wrong.thing, wrong.cause).with_status(USAGE)
    }
}

/// Turns an error about a path into a [`Failure`] that names it.
pub(crate) trait About<T> {
    /// Names `thing` as what failed.
    fn about(self, thing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display + 'static> About<T> for Result<T, E> {
    fn about(self, thing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure { hint: crate::hint::of(&error), ..Failure::new(thing, error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_thing_cause_and_hint_on_one_line() {
        let failure = Failure::new("/dev/fuse", "permission denied").with_hint("run: chmod 666 /dev/fuse");
        assert_eq!(failure.to_string(), "/dev/fuse: permission denied; run: chmod 666 /dev/fuse");
        assert_eq!(failure.status(), FAILED);
    }
}
