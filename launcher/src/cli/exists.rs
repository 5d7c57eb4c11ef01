//! `lamina image exists`: a question of scripts, which the exit status answers.

use super::{Global, store};
use crate::failure::{FAILED, Failure};

/// Succeed if the store has this image, and end with status 1 otherwise
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina image exists app:1 || lamina load -i app.tar")]
pub(super) struct ImageExists {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
}

/// Returns the exit status that answers whether something exists.
pub(super) const fn answer(exists: bool) -> u8 {
    if exists { 0 } else { FAILED }
}

impl ImageExists {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        match store::find(global)? {
            Ok(opened) => Ok(answer(store::find_image(&opened, &self.image)?.is_some())),
            Err(_) => Ok(answer(false)),
        }
    }
}
