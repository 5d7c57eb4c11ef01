//! `lamina rmi`.

use layer_store::Store;

use super::{Global, store};
use crate::failure::{About, Failure};

/// Take images out of the store
///
/// What no other image and no running machine or mount needs goes with the next `lamina gc`; how much is said.
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
        let mut frees = 0;
        for (name, reference) in self.images.iter().zip(&references) {
            let reference = reference.to_string();
            // Counted before each: the second of two images that share a layer frees it.
            let unique = only_of(&opened, &reference);
            opened.untag(&reference).about(name)?;
            frees += unique;
            if !global.json {
                let unique = super::size(unique);
                say!("removed {reference}; it alone had {unique}, which `lamina gc` frees once nothing uses them");
            }
            removed.push(reference);
        }
        if global.json {
            say!("{}", serde_json::json!({ "removed": removed, "frees": frees }));
        }
        Ok(0)
    }
}

/// Bytes on disk of the layers that only this image has. Nothing where something else in the store is damaged: that is
/// no reason to keep the image.
fn only_of(store: &Store, reference: &str) -> u64 {
    let images = store.usage().map(|usage| usage.images).unwrap_or_default();
    images.iter().find(|image| image.reference == reference).map_or(0, |image| image.unique)
}
