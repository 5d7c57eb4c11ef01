//! `lamina rmi`.

use layer_store::{Reference, Store, StoreError};

use super::{Global, store};
use crate::failure::{About, FAILED, Failure, USAGE};
use crate::print;

/// Remove images from the store
///
/// The next `lamina gc` frees what no other image, running machine or mount needs; the amount is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina rmi debian:12
  lamina rmi debian:12 localhost:5000/app:old")]
pub(super) struct Rmi {
    /// The images
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
    /// Do not fail for an image that does not exist
    #[arg(short, long)]
    force: bool,
    /// Accepted: the layers stay until `lamina gc`
    #[arg(long, hide = true)]
    no_prune: bool,
}

impl Rmi {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::look_into(global)?;
        // All names are parsed before the first is removed, so that a typing error removes none.
        let references = self.images.iter().map(|name| meant(&opened, name)).collect::<Result<Vec<_>, _>>()?;
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        let mut frees = 0;
        for (name, reference) in self.images.iter().zip(references) {
            // Counted before each removal: the second of two images that share a layer frees it.
            let unique = only_of(&opened, &reference);
            if let Err(error) = opened.images().untag(&reference) {
                if self.force && matches!(error, StoreError::NoSuchImage(_)) {
                    continue;
                }
                let failure = Failure::of(name, &error);
                // The other images can still be removed.
                tell!("lamina: {failure}");
                failed.push(reference);
                continue;
            }
            frees += unique.unwrap_or_default();
            if !global.json {
                let unique = unique.map_or_else(
                    || "the space of its own layers is not known".into(),
                    |unique| format!("{} were its own", super::size(unique)),
                );
                say!("removed {reference}; {unique}, which `lamina gc` frees when nothing uses them");
            }
            removed.push(reference);
        }
        if global.json {
            print::json(&serde_json::json!({ "removed": removed, "failed": failed, "frees": frees }))?;
        }
        Ok(if failed.is_empty() { 0 } else { FAILED })
    }
}

/// Returns the canonical name that a user means: as written, or the only name of the image with this digest.
fn meant(opened: &Store, name: &str) -> Result<String, Failure> {
    let reference = store::reference(name)?;
    let listed = opened.images().list().about("store")?;
    let is_listed = |reference: &Reference| listed.iter().any(|image| image.reference == reference.to_string());
    let meanings = store::meanings(name).unwrap_or_default();
    if let Some(meant) = meanings.iter().chain([&reference]).find(|reference| is_listed(reference)) {
        return Ok(meant.to_string());
    }
    // A name with a digest may mean an image that has another name in its repository.
    let mut found = opened.images().names_of(&reference).about(name)?;
    if found.is_empty() {
        found = store::by_digest(opened, name)?;
    }
    match found.as_slice() {
        [] => Ok(reference.to_string()),
        [only] => Ok(only.clone()),
        several => {
            let causes = format!("the image has several names: {}", several.join(", "));
            Err(Failure::new(name, causes).with_hint("name the one to remove").with_status(USAGE))
        }
    }
}

/// Returns the bytes on disk of the layers that only this image has, if known. Damage elsewhere in the store must not keep
/// the image from being removed.
fn only_of(store: &Store, reference: &str) -> Option<u64> {
    let images = store.usage().map(|usage| usage.images).unwrap_or_default();
    let image = images.into_iter().find(|image| image.reference == reference)?;
    image.error.is_none().then_some(image.unique)
}
