//! Text of others, made safe to print.
//!
//! Names, paths and messages of an image, a guest or a registry may contain any character. On a terminal, some characters
//! do more than appear: control characters can move the cursor and retitle the window, and characters that change the
//! direction of text make it read as something else. These functions replace such characters by an escape that shows
//! them, and leave everything else as it is. What they return stays the same when it goes through them again.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Returns text for one line: line ends are escaped too.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, |c| acts(c) || ends_a_line(c), show)
}

/// Returns text of several lines: line feeds stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c != '\n' && (acts(c) || ends_a_line(c)), show)
}

/// Returns bytes as text for one line. What is not UTF-8 is shown as `\xff`.
#[must_use]
pub fn bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&line(chunk.valid()));
        chunk.invalid().iter().for_each(|byte| show_byte(*byte, &mut text));
    }
    text
}

/// Escapes a JSON document as JSON does, which leaves its value as it is. An encoder escapes only what JSON forbids in
/// strings, and that is less than what a terminal obeys. Line feeds between values stay.
#[must_use]
pub fn json(document: &str) -> Cow<'_, str> {
    let escaped = |c| !matches!(c, '\n' | '\t' | '\r') && (acts(c) || ends_a_line(c));
    // All of them are in the first plane, so one unit of UTF-16 is enough.
    replaced(document, escaped, |c, text| {
        let _ = write!(text, "\\u{:04x}", u32::from(c));
    })
}

/// Returns whether a character does more than appear: a control character except the tab, or one with the property
/// `Bidi_Control` of Unicode.
fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\t')
}

/// Returns whether a character ends a line or a paragraph, in Unicode's view.
const fn ends_a_line(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn replaced(text: &str, unsafe_to_print: impl Fn(char) -> bool, show: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&unsafe_to_print) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unsafe_to_print(c) {
            show(c, &mut shown);
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn show(c: char, text: &mut String) {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        c => match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() => show_byte(byte, text),
            _ => text.extend(c.escape_unicode()),
        },
    }
}

fn show_byte(byte: u8, text: &mut String) {
    let _ = write!(text, "\\x{byte:02x}");
}

/// Writes text of several lines, as [`lines`] shows it, whatever pieces it arrives in. Bytes that are not UTF-8 are shown
/// as `\xff`.
#[derive(Debug)]
pub struct Printable<W> {
    to: W,
    /// The beginning of a character that a later piece completes.
    begun: Vec<u8>,
}

impl<W: Write> Printable<W> {
    /// Writes to `to`.
    pub const fn new(to: W) -> Self {
        Self { to, begun: Vec::new() }
    }
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut whole = std::mem::take(&mut self.begun);
        whole.extend_from_slice(piece);
        let mut text = String::with_capacity(whole.len());
        let mut chunks = whole.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(&lines(chunk.valid()));
            let cut_off = chunks.peek().is_none() && is_begun(chunk.invalid());
            if cut_off {
                self.begun = chunk.invalid().to_vec();
            } else {
                chunk.invalid().iter().for_each(|byte| show_byte(*byte, &mut text));
            }
        }
        self.to.write_all(text.as_bytes())?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Returns whether these bytes are the beginning of a character.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_and_the_rest_stays() {
        for (text, shown) in [
            ("plain", "plain"),
            ("größer 日本 🏴‍☠️ עברית", "größer 日本 🏴‍☠️ עברית"),
            ("a\tb\\", "a\tb\\"),
            ("\u{1b}]0;title\u{7}\u{1b}[2J", "\\x1b]0;title\\x07\\x1b[2J"),
            ("\0\u{7f}\u{80}\u{9b}31m\u{9f}", "\\x00\\x7f\\u{80}\\u{9b}31m\\u{9f}"),
            ("a\u{202e}b\u{2066}c\u{2069}\u{200f}", "a\\u{202e}b\\u{2066}c\\u{2069}\\u{200f}"),
            ("a\nb\r\u{2028}\u{85}", "a\\nb\\r\\u{2028}\\u{85}"),
        ] {
            assert_eq!(line(text), shown);
            assert_eq!(line(shown), shown, "escaped text stays");
            assert_eq!(bytes(text.as_bytes()), shown);
        }
        assert_eq!(lines("a\nb\rc\u{2028}\n"), "a\nb\\rc\\u{2028}\n");
        assert_eq!(bytes(b"a\xffb\xc3"), "a\\xffb\\xc3");
    }

    #[test]
    fn every_character_comes_out_safe() {
        for c in '\0'..=char::MAX {
            let shown = line(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(shown.chars().all(|c| c == '\t' || !(c.is_control() || acts(c) || ends_a_line(c))), "{c:?}");
        }
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "a\u{202e}": "\u{1b}\u{7f}\u{9b}\u{2028}ü\n\"" });
        let document = serde_json::to_string_pretty(&value).unwrap();
        let escaped = json(&document);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        assert_eq!(escaped.replace('ü', "").chars().find(|c| !matches!(c, '\n' | ' '..='~')), None, "{escaped}");
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let text = "ü\u{1b}[1m\u{9b}\n日\u{202e}🏴".as_bytes();
        let text = [text, b"\xff\xe2\x80x"].concat();
        let mut whole = Vec::new();
        Printable::new(&mut whole).write_all(&text).unwrap();
        assert_eq!(String::from_utf8_lossy(&whole), "ü\\x1b[1m\\u{9b}\n日\\u{202e}🏴\\xff\\xe2\\x80x");
        for cut in 0..text.len() {
            let mut pieces = Vec::new();
            let mut writer = Printable::new(&mut pieces);
            let (first, second) = text.split_at(cut);
            writer.write_all(first).unwrap();
            writer.write_all(second).unwrap();
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
