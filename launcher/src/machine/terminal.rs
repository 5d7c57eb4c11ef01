//! This process's own terminal.

use std::io::IsTerminal;

use guest_protocol::TerminalSize;
use rustix::stdio::{stdin, stdout};
use rustix::termios::tcgetwinsize;

/// Returns whether a command should get a terminal: if both its input and its output are terminals. If only one of them
/// were, the pipe would get carriage returns and standard error too.
#[must_use]
pub(crate) fn wanted() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// Returns the terminal's size, or 24 by 80 if it has none.
#[must_use]
pub(crate) fn size() -> TerminalSize {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}
