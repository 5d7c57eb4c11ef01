//! The only place of this crate that writes text to standard output and standard error. All of it passes through
//! [`layer_store::printable`], because names, messages and paths may come from an image, a guest or a registry.
//!
//! Other modules write there only what must stay byte-exact: the output of commands in a machine, its console, and tar
//! streams. A lint (`disallowed_methods`) finds every other use.
#![expect(clippy::disallowed_methods, reason = "what the others should not do is done here")]

#[cfg(target_os = "linux")]
mod pieces;

use std::io::{self, Write};

use layer_store::printable;
use serde::Serialize;

use crate::failure::Failure;

#[cfg(target_os = "linux")]
pub(crate) use self::pieces::{json_element, json_with_texts};

/// Prints a line of a result, and escapes line ends in it. A closed pipe (`| head`) is not an error; any other failure
/// to write ends the program, because half a result must not look like a whole one.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::print::result_line(&format!($($words)*))
    };
}

/// Prints a line on standard error, as `eprintln!` does, but does not panic if it cannot be written. A machine and a
/// mount must survive a full disk under their log, and a reader that has gone away. Line ends in it are escaped.
macro_rules! tell {
    ($($words:tt)*) => {
        $crate::print::message(&format!($($words)*))
    };
}

pub(crate) fn message(line: &str) {
    message_lines(&printable::line(line));
}

/// Prints lines on standard error, as `tell!` does.
pub(crate) fn message_lines(text: &str) {
    // There is nowhere else to report a failure.
    let _ = io::stderr().lock().write_all(format!("{}\n", printable::lines(text)).as_bytes());
}

pub(crate) fn result_line(line: &str) {
    if let Err(failure) = result_lines(&format!("{}\n", printable::line(line))) {
        tell!("lamina: {failure}");
        std::process::exit(failure.status().into());
    }
}

/// Prints a result of several lines. A closed pipe (`| head`) is not an error.
pub(crate) fn result_lines(text: &str) -> Result<(), Failure> {
    written(&printable::lines(text))
}

/// Prints a result as JSON on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    printed(serde_json::to_string(value))
}

/// Prints a result as JSON, indented.
pub(crate) fn json_pretty(value: &impl Serialize) -> Result<(), Failure> {
    printed(serde_json::to_string_pretty(value))
}

fn printed(document: serde_json::Result<String>) -> Result<(), Failure> {
    let document = document.map_err(|error| Failure::new("JSON", error))?;
    written(&format!("{}\n", printable::json(&document)))
}

fn written(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new("standard output", error)),
        _ => Ok(()),
    }
}
