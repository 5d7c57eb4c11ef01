//! Values of options, as people write them.

use transfer_cli::parse_size;

use crate::machine;

/// The least memory of a VM in MiB.
pub(super) const TO_BOOT: u64 = 96;

/// Parses a memory size into MiB. A VM needs [`TO_BOOT`].
pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 6;
    match parse_size(text)? {
        bytes if bytes >= LEAST << 20 => Ok(bytes >> 20),
        bytes if bytes < 1 << 20 => {
            Err(format!("expected at least {LEAST}M; a plain number is in bytes, as in {bytes}M"))
        }
        _ => Err(format!("expected at least {LEAST}M")),
    }
}

/// Parses a disk size into bytes.
pub(super) fn parse_disk(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes >= 64 << 20 => Ok(bytes),
        _ => Err("a disk needs at least 64M".to_owned()),
    }
}

/// A number of virtual processors. A VM has whole ones, so a fraction is rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Processors {
    /// The whole processors.
    pub(super) whole: u32,
    /// Whether there was a fraction.
    pub(super) rounded: bool,
    /// Hundredths of a processor, for a container.
    pub(super) hundredths: u32,
}

impl Processors {
    /// Processors of a machine for which no number is given.
    pub(super) const ONE: Self = Self { whole: 1, rounded: false, hundredths: 100 };
}

impl std::str::FromStr for Processors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a number of processors from 1 to 255".to_owned();
        let (number, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.chars().all(|digit| digit.is_ascii_digit()) || text.is_empty() || text == "." {
            return Err(wrong());
        }
        let number = if number.is_empty() { 0 } else { number.parse::<u32>().map_err(|_| wrong())? };
        let rounded = fraction.contains(|digit| digit != '0');
        let whole = number.saturating_add(u32::from(rounded));
        let first_two: u32 = format!("{fraction:0<2}").chars().take(2).collect::<String>().parse().unwrap_or_default();
        // Less than a hundredth is one.
        let hundredths = number.saturating_mul(100).saturating_add(first_two).max(1);
        if (1..=255).contains(&whole) { Ok(Self { whole, rounded, hundredths }) } else { Err(wrong()) }
    }
}

/// Parses the size of a log into bytes.
pub(super) fn parse_log_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes >= 64 << 10 => Ok(bytes),
        _ => Err("a log needs at least 64K".to_owned()),
    }
}

/// Parses the name of a machine.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    if machine::is_valid_name(text) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 40 letters, digits, \"-\", \"_\" or \".\", the first a letter or digit".to_owned())
}

/// Splits what follows the options into its first word, which names an image or a machine, and the command. A `--` between
/// the two is dropped.
pub(super) fn split_command(mut words: Vec<String>) -> (String, Vec<String>) {
    if words.get(1).is_some_and(|word| word == "--") {
        words.remove(1);
    }
    let mut words = words.into_iter();
    (words.next().unwrap_or_default(), words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_at_least_what_a_machine_needs() {
        assert_eq!(parse_memory("512M"), Ok(512));
        assert_eq!(parse_memory("1.5g"), Ok(1536));
        assert_eq!(parse_memory("32M"), Ok(32));
        assert!(parse_memory("5M").is_err());
        assert!(parse_memory("512").unwrap_err().contains("512M"));
    }

    #[test]
    fn a_container_gets_hundredths_of_processors() {
        for (text, hundredths) in [("2", 200), ("1.5", 150), (".25", 25), ("0.257", 25), ("0.001", 1), ("1.0", 100)] {
            assert_eq!(text.parse::<Processors>().unwrap().hundredths, hundredths, "{text}");
        }
    }

    #[test]
    fn fractions_of_processors_are_rounded_up() {
        for (text, whole, rounded) in
            [("1", 1, false), ("1.5", 2, true), ("0.5", 1, true), (".5", 1, true), ("2.0", 2, false)]
        {
            let parsed: Processors = text.parse().unwrap();
            assert_eq!((parsed.whole, parsed.rounded), (whole, rounded), "{text}");
        }
        for wrong in ["", ".", "0", "0.0", "-1", "256", "255.5", "x", "1.x", "1e1"] {
            assert!(wrong.parse::<Processors>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_follows_the_first_word_is_the_command_without_one_separator() {
        for (words, command) in [
            (&["i"][..], &[][..]),
            (&["i", "ls", "-l"], &["ls", "-l"]),
            (&["i", "--", "ls", "--", "x"], &["ls", "--", "x"]),
            (&["i", "--help"], &["--help"]),
            (&["i", "--"], &[]),
        ] {
            let words = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(split_command(words), ("i".to_owned(), command.iter().map(|&word| word.to_owned()).collect()));
        }
    }
}
