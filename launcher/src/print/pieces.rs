//! JSON that is printed in pieces, because it may be long: what commands on machines print.

use std::io::{self, Read};

use layer_store::printable;
use serde::Serialize;

use super::written;
use crate::failure::Failure;

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
