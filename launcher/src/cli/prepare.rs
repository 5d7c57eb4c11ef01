//! `lamina prepare`.

use super::on_top::OnTop;
use super::{Global, store};
use crate::failure::Failure;
use crate::print;

/// Prepare an image for mounting and running, and print its base id
///
/// A prepared base is kept: preparing the same image with the same layers again does no work and prints the same id.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina prepare debian:12
  lamina prepare debian:12 --layer ./agent
  lamina prepare debian:12 --variant agent
  composefs-fuse \"$(lamina prepare debian:12)\" /mnt")]
pub(super) struct Prepare {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    on_top: OnTop,
}

impl Prepare {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = self.on_top.open(global)?;
        let image = store::image(&opened, &self.image)?;
        let base = store::prepare(&opened, &image, &self.on_top.layers(&opened)?)?;
        if global.json {
            print::json(&serde_json::json!({ "reference": image.reference, "base": base.to_string() }))?;
        } else {
            say!("{base}");
        }
        Ok(0)
    }
}
