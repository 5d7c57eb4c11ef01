//! `lamina export`.

use std::collections::HashSet;
use std::path::PathBuf;

use layer_store::{Cancellation, DiffId, Reference};

use super::{Global, store};
use crate::failure::{About, Failure};
use crate::meter::Meter;
use crate::print;

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
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

impl Export {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::look_into(global)?;
        let image = store::image(&opened, &self.image)?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        // Each layer is written, and then read where it came from.
        let distinct: HashSet<&DiffId> = image.layers.iter().collect();
        let total = distinct.into_iter().filter_map(|layer| opened.layers().bytes(layer)).map(|bytes| 2 * bytes).sum();
        let meter = Meter::new("exported", self.quiet).of(total).until(&cancellation);
        let exported = opened.images().export(&image, &self.directory, &meter);
        drop(meter);
        let manifest = exported.about("lamina export")?;
        let promised = image.reference.parse::<Reference>().ok().and_then(|reference| reference.digest());
        if promised.is_some_and(|digest| digest != manifest) {
            tell!(
                "lamina: the layers are written uncompressed, so the manifest is {manifest}: the name has no digest there"
            );
        }
        if global.json {
            print::json(&serde_json::json!({ "directory": self.directory, "manifest": manifest }))?;
        } else if !self.quiet {
            say!("exported {} to {}", self.image, self.directory.display());
        }
        Ok(0)
    }
}
