//! `lamina prepare`.

use std::path::PathBuf;

use super::{Global, store};
use crate::failure::Failure;

/// Prepare an image for mounting and running, and print its base id
///
/// A prepared base is kept: preparing the same image with the same layers again prints the same id and does no work.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina prepare debian:12
  lamina prepare debian:12 --layer ./agent
  composefs-fuse \"$(lamina prepare debian:12)\" /mnt")]
pub(super) struct Prepare {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// Put the content of this directory on top, owned by root (may be given several times)
    #[arg(long = "layer", value_name = "DIR")]
    layers: Vec<PathBuf>,
}

impl Prepare {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open(global)?;
        let image = store::image(&opened, &self.image)?;
        let base = store::prepare(&opened, &image, &self.layers)?;
        if global.json {
            let result = serde_json::json!({ "reference": image.reference, "base": base.to_string() });
            say!("{result}");
        } else {
            say!("{base}");
        }
        Ok(0)
    }
}
