//! The words of a line: quoting, escapes and repetition.
//!
//! A word ends at white space. Inside double quotes white space is kept; `\n`, `\t`, `\0`, `\\`,
//! `\"` and `\xNN` are bytes, inside quotes or outside. `"text"*N` repeats. `#` at the start of a word
//! begins a comment.

use anyhow::{Context as _, Result, bail, ensure};

/// One word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its bytes, without quotes.
    pub(crate) bytes: Vec<u8>,
    /// Whether it began with a quote.
    pub(crate) quoted: bool,
    /// Where its first unquoted `=` is.
    equals: Option<usize>,
}

impl Word {
    /// Returns the word as text.
    pub(crate) fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes).context("a keyword is not UTF-8")
    }

    /// Returns key and value of `key=value`.
    pub(crate) fn pair(&self) -> Option<(&[u8], &[u8])> {
        let at = self.equals?;
        Some((&self.bytes[..at], &self.bytes[at + 1..]))
    }
}

/// Splits a line into words.
pub(crate) fn words(line: &str) -> Result<Vec<Word>> {
    let mut rest = line.trim_start().as_bytes();
    let mut words = Vec::new();
    while !rest.is_empty() && rest[0] != b'#' {
        let (word, behind) = first_word(rest)?;
        words.push(word);
        rest = behind.trim_ascii_start();
    }
    Ok(words)
}

fn first_word(mut rest: &[u8]) -> Result<(Word, &[u8])> {
    let mut word = Word { bytes: Vec::new(), quoted: rest[0] == b'"', equals: None };
    loop {
        match rest {
            [] | [b' ' | b'\t', ..] => return Ok((word, rest)),
            [b'"', behind @ ..] => rest = quotation(behind, &mut word.bytes)?,
            [b'\\', behind @ ..] => rest = escape(behind, &mut word.bytes)?,
            [byte, behind @ ..] => {
                if *byte == b'=' && word.equals.is_none() {
                    word.equals = Some(word.bytes.len());
                }
                word.bytes.push(*byte);
                rest = behind;
            }
        }
    }
}

/// Reads up to the closing quote and the repetition after it.
fn quotation<'a>(mut rest: &'a [u8], into: &mut Vec<u8>) -> Result<&'a [u8]> {
    let mut quoted = Vec::new();
    loop {
        match rest {
            [] => bail!("a quote is not closed"),
            [b'"', behind @ ..] => {
                rest = behind;
                break;
            }
            [b'\\', behind @ ..] => rest = escape(behind, &mut quoted)?,
            [byte, behind @ ..] => {
                quoted.push(*byte);
                rest = behind;
            }
        }
    }
    let mut times = 1;
    if let [b'*', behind @ ..] = rest {
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        times = std::str::from_utf8(&behind[..digits])?.parse().context("no number after \"...\"*")?;
        rest = &behind[digits..];
    }
    into.extend(quoted.repeat(times));
    Ok(rest)
}

fn escape<'a>(rest: &'a [u8], into: &mut Vec<u8>) -> Result<&'a [u8]> {
    let (byte, length) = match rest {
        [b'n', ..] => (b'\n', 1),
        [b't', ..] => (b'\t', 1),
        [b'0', ..] => (0, 1),
        [b'x', ..] => {
            ensure!(rest.len() >= 3, "two hex digits are missing after \\x");
            (u8::from_str_radix(std::str::from_utf8(&rest[1..3])?, 16)?, 3)
        }
        [byte @ (b'\\' | b'"'), ..] => (*byte, 1),
        _ => bail!("an unknown escape"),
    };
    into.push(byte);
    Ok(&rest[length..])
}

/// Writes bytes as one word, in quotes if they are needed.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./-+:,@%".contains(byte);
    let looks_like_mode = bytes.iter().all(u8::is_ascii_digit);
    if !bytes.is_empty() && bytes.iter().all(bare) && !looks_like_mode && bytes != b"->" {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    quote_always(bytes)
}

/// Writes bytes in quotes.
pub(crate) fn quote_always(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            0 => text.push_str("\\0"),
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}
