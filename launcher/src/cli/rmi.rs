//! `lamina rmi`.

use layer_store::Store;

use super::{Global, store};
use crate::failure::{About, FAILED, Failure, USAGE};

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
        let opened = store::look_into(global)?;
        // All names are read before the first goes, so that a typing error takes none away.
        let references = self.images.iter().map(|name| meant(&opened, name)).collect::<Result<Vec<_>, _>>()?;
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        let mut frees = 0;
        for (name, reference) in self.images.iter().zip(references) {
            // Counted before each: the second of two images that share a layer frees it.
            let unique = only_of(&opened, &reference);
            if let Err(failure) = opened.untag(&reference).about(name) {
                // The others are no worse for it.
                tell!("lamina: {failure}");
                failed.push(reference);
                continue;
            }
            frees += unique.unwrap_or_default();
            if !global.json {
                let unique = unique.map_or_else(
                    || "what it alone had is not known".into(),
                    |unique| format!("it alone had {}", super::size(unique)),
                );
                say!("removed {reference}; {unique}, which `lamina gc` frees once nothing uses them");
            }
            removed.push(reference);
        }
        if global.json {
            say!("{}", serde_json::json!({ "removed": removed, "failed": failed, "frees": frees }));
        }
        Ok(if failed.is_empty() { 0 } else { FAILED })
    }
}

/// The canonical name that a user means: as written, or the only one of the image with this digest.
fn meant(opened: &Store, name: &str) -> Result<String, Failure> {
    let reference = store::reference(name)?.to_string();
    if opened.images().about("store")?.iter().any(|image| image.reference == reference) {
        return Ok(reference);
    }
    match store::by_digest(opened, name)?.as_slice() {
        [] => Ok(reference),
        [only] => Ok(only.clone()),
        several => {
            let causes = format!("the image has several names: {}", several.join(", "));
            Err(Failure::new(name, causes).with_hint("say which to take away").with_status(USAGE))
        }
    }
}

/// Bytes on disk of the layers that only this image has, where that is known. That something else in the store is damaged
/// is no reason to keep the image.
fn only_of(store: &Store, reference: &str) -> Option<u64> {
    let images = store.usage().map(|usage| usage.images).unwrap_or_default();
    let image = images.into_iter().find(|image| image.reference == reference)?;
    image.error.is_none().then_some(image.unique)
}
