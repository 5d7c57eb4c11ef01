//! Options that limit what a new layer may cost, and choose how it is stored.

use clap::builder::FalseyValueParser;
use layer_store::Limits;

use crate::parse_size;

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
