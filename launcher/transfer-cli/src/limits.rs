//! Options that limit what a new layer may cost, and choose how it is stored; sizes, as people write them.

use clap::builder::FalseyValueParser;
use layer_store::Limits;

/// Whether content that several layers have is stored once.
#[derive(Debug, clap::Args)]
pub struct SharingArgs {
    /// Store new layers whole, even content that other layers have
    #[arg(long, env = "LAMINA_NO_FILE_SHARING", hide_env_values = true, value_parser = FalseyValueParser::new())]
    no_file_sharing: bool,
}

impl SharingArgs {
    /// Returns whether content that several layers have is stored once.
    #[must_use]
    pub fn shares_files(&self) -> bool {
        !self.no_file_sharing
    }
}

/// Limits against archives made to exhaust disk or memory.
#[derive(Debug, clap::Args)]
pub struct LimitArgs {
    /// Refuse layers whose uncompressed tar is larger [default: 256G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_layer_size: Option<u64>,
    /// Refuse layers over 1G that are more than N times their compressed size [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_ratio: Option<u64>,
    /// Refuse layers with more inodes [default: 16777216]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_inodes: Option<u32>,
}

impl LimitArgs {
    /// Returns the limits for the library.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            layer_bytes: self.max_layer_size.unwrap_or(default.layer_bytes),
            ratio: self.max_ratio.unwrap_or(default.ratio),
            inodes: self.max_inodes.unwrap_or(default.inodes),
            ..default
        }
    }
}

/// Parses the number of layers to process at once.
///
/// # Errors
/// It is not a number in the range. The text says what is expected.
pub fn parse_parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err("expected a number from 1 to 64".to_owned()),
    }
}

/// Parses a size in bytes as docker does: a number, which may have a fraction, and a unit of powers of 1024, such as
/// `1.5g`, `512mb` or `1GiB`. A number alone is in bytes.
///
/// # Errors
/// It is not a size, or it is 0. The text says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes, or one with a unit, as in 512M or 1.5GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(1 << shift),
        Err(_) if !number.starts_with(|c: char| c.is_ascii_digit()) => None,
        Err(_) => number.parse::<f64>().ok().and_then(|number| whole(number * (1_u64 << shift) as f64)),
    };
    bytes.filter(|&bytes| bytes > 0).ok_or_else(wrong)
}

/// Returns the whole part of a number that is not negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole(number: f64) -> Option<u64> {
    (0.0..9e18).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("1K", 1 << 10),
            ("2g", 2 << 30),
            ("1", 1),
            ("32b", 32),
            ("32kb", 32 << 10),
            ("32 KiB", 32 << 10),
            ("1.5g", 3 << 29),
            ("512mb", 512 << 20),
            ("1GiB", 1 << 30),
            ("1.", 1),
            ("4T", 4 << 40),
            ("0.5p", 1 << 49),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in
            ["", "M", "1X", "-1M", "0M", "99999999999T", "é", "1ib b", "1.2.3M", ".5g", "1mm", "1e3", "inf", "0.1"]
        {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
