//! `lamina export`.

use std::path::PathBuf;

use super::{Global, store};
use crate::failure::{About, Failure};

/// Write an image as an OCI layout
///
/// The layers are plain tars with the DiffIDs that they have in the store. skopeo, umoci and `lamina import` read it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina export debian:12 ./debian-layout
  lamina export debian:12 ./layout && skopeo copy oci:layout docker-archive:debian.tar")]
pub(super) struct Export {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// A new directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Export {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open(global)?;
        let image = store::image(&opened, &self.image)?;
        let manifest = opened.export(&image, &self.directory).about("lamina export")?;
        if global.json {
            say!("{}", serde_json::json!({ "directory": self.directory, "manifest": manifest }));
        } else {
            say!("exported {} to {}", self.image, self.directory.display());
        }
        Ok(0)
    }
}
