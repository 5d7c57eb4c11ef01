//! The terminal of this process, with every key passed on as it is typed.

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal in raw mode: every key goes to this program. Dropping this restores the previous mode.
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    /// Sets the terminal at standard input to raw mode.
    pub(crate) fn enter() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Fails if the terminal has gone away.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
