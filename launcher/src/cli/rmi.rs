//! `lamina rmi`.

use super::{Global, store};
use crate::failure::{About, Failure};

/// Take images out of the store
///
/// What no other image and no running machine or mount needs goes with the next `lamina gc`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina rmi debian:12
  lamina rmi debian:12 localhost:5000/app:old")]
pub(super) struct Rmi {
    /// The images
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
}

impl Rmi {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open(global)?;
        // All names are read before the first goes, so that a typing error takes none away.
        let references = self.images.iter().map(|name| store::reference(name)).collect::<Result<Vec<_>, _>>()?;
        let mut removed = Vec::new();
        for (name, reference) in self.images.iter().zip(&references) {
            opened.untag(&reference.to_string()).about(name)?;
            removed.push(reference.to_string());
        }
        if global.json {
            say!("{}", serde_json::json!({ "removed": removed }));
        } else {
            removed.iter().for_each(|reference| say!("removed {reference}"));
        }
        Ok(0)
    }
}
