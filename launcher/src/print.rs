//! The only place of this crate that writes text to standard output and standard error. All of it passes through
//! [`layer_store::printable`], because names, messages and paths may come from an image, a guest or a registry.
//!
//! Other modules write there only what must stay byte-exact: the output of commands in a machine, its console, and tar
//! streams. A lint (`disallowed_methods`) finds every other use.
#![expect(clippy::disallowed_methods, reason = "what the others should not do is done here")]

use std::io::{self, Read, Write};

use layer_store::printable;
use serde::Serialize;

use crate::failure::Failure;

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

/// Prints an element of a JSON array, indented, and what comes before it. The caller ends the array.
pub(crate) fn json_element(value: &impl Serialize, first: bool) -> Result<(), Failure> {
    let document = serde_json::to_string_pretty(value).map_err(|error| Failure::new("JSON", error))?;
    let before = if first { "[\n  " } else { ",\n  " };
    written(&format!("{before}{}", printable::json(&document).replace('\n', "\n  ")))
}

/// Prints an object as JSON on one line, with further strings in it, which are read in pieces because they may be long.
/// Bytes that are not UTF-8 are replaced.
pub(crate) fn json_with_texts(object: &serde_json::Value, texts: Vec<(&str, impl Read)>) -> Result<(), Failure> {
    let text = object.to_string();
    written(&printable::json(text.strip_suffix('}').unwrap_or(&text)))?;
    for (key, text) in texts {
        written(&format!(",\"{key}\":\""))?;
        pieces(text, |piece| {
            let quoted = serde_json::Value::from(piece).to_string();
            written(&printable::json(&quoted[1..quoted.len() - 1]))
        })?;
        written("\"")?;
    }
    written("}\n")
}

/// Calls `take` with the pieces of a text.
fn pieces(mut text: impl Read, mut take: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    let (mut buffer, mut begun) = (vec![0; 64 << 10], 0);
    loop {
        let count = match text.read(&mut buffer[begun..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count.map_err(|error| Failure::new("temporary file", error))?,
        };
        let end = begun + count;
        // A character that has been read only in part waits for the rest.
        let whole = if count > 0 { end - begun_character(&buffer[..end]) } else { end };
        take(&String::from_utf8_lossy(&buffer[..whole]))?;
        buffer.copy_within(whole..end, 0);
        begun = end - whole;
        if count == 0 {
            return Ok(());
        }
    }
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

/// Returns how many bytes at the end of a text are the beginning of a character in UTF-8.
fn begun_character(text: &[u8]) -> usize {
    let last = text.iter().rev().take(3).position(|byte| byte & 0xc0 != 0x80);
    let begun = |back: usize| {
        let length = match text[text.len() - 1 - back] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        if back + 1 < length { back + 1 } else { 0 }
    };
    last.map_or(0, begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn a_text_is_the_same_wherever_its_pieces_are_cut() {
        let text = "aé€\u{1f600}\u{1b}\"b".repeat(3).into_bytes();
        let text = [&text[..], b"\xff\xe2\x82x\xe2\x82"].concat();
        for step in 1..12 {
            let mut all = String::new();
            pieces(Slow(&text, step), |piece| {
                all.push_str(piece);
                Ok(())
            })
            .unwrap();
            assert_eq!(all.matches('\u{1f600}').count(), 3, "{step}");
            assert!(all.starts_with("aé€\u{1f600}\u{1b}\"baé€") && all.contains('x'), "{step}: {all}");
        }
    }
}
