//! This process's own terminal.

use std::io::{IsTerminal, stdin, stdout};

use guest_protocol::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether a command should get a terminal: when both its input and its output are one. With only one of
/// them, a pipe would carry carriage returns, and standard error with it.
#[must_use]
pub(crate) fn wanted() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// The terminal's size, 24 by 80 where it does not say.
#[must_use]
pub(crate) fn size() -> TerminalSize {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}

/// The terminal in raw mode: every key goes to the guest. Dropping it restores what was.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Changes the mode of the terminal at standard input.
    pub(crate) fn enter() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone away needs no mode.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
