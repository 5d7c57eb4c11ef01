//! `lamina tag`.

use super::{Global, store};
use crate::failure::{About, Failure, USAGE};

/// Give an image another name
///
/// The image keeps its other names. A name that another image has moves to this one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina tag app:1 registry.example.test/app:latest
  lamina tag 3f5a9c01d2e4 app:old")]
pub(super) struct Tag {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// Its new names
    #[arg(value_name = "NEW", required = true)]
    names: Vec<String>,
}

impl Tag {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let references = self.names.iter().map(|name| {
            let reference = store::reference(name)?;
            match reference.digest() {
                Some(_) => Err(Failure::new(name, "a name with a digest belongs to the image with that digest")
                    .with_hint("give a name with a tag")
                    .with_status(USAGE)),
                None => Ok(reference),
            }
        });
        let references = references.collect::<Result<Vec<_>, _>>()?;
        let opened = store::open(global)?;
        let image = store::image(&opened, &self.image)?;
        for reference in references {
            opened.images().copy_name(&image, &reference.to_string()).about(reference.familiar())?;
        }
        Ok(0)
    }
}
