//! `lamina image prune`: removing images that are not in use.

use super::gc::Gc;
use super::{Global, machines, store};
use crate::failure::{About, Failure, USAGE};

/// Collect garbage in the store and, with --all, remove all images that no machine uses
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina image prune
  lamina image prune --all --force")]
pub(super) struct ImagePrune {
    /// Remove images that no machine uses
    #[arg(short, long)]
    all: bool,
    /// Confirm --all
    #[arg(short, long)]
    force: bool,
}

impl ImagePrune {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.all {
            confirmed(self.force, "it removes all images that no machine uses")?;
            images(global)?;
        }
        Gc::default().execute(global)
    }
}

/// Nothing is asked: a script would wait for an answer.
pub(super) fn confirmed(force: bool, what: &str) -> Result<(), Failure> {
    match force {
        true => Ok(()),
        false => Err(Failure::new("prune", what).with_hint("confirm with --force").with_status(USAGE)),
    }
}

/// Removes all images that no machine uses, and prints their names.
pub(super) fn images(global: &Global) -> Result<(), Failure> {
    let opened = store::look_into(global)?;
    let used = machines::images_in_use()?;
    for image in opened.images().list().about("store")? {
        let is_used = used.contains(&image.reference) || used.contains(&image.manifest_digest.to_string());
        if !is_used && image.store == opened.root() {
            opened.images().untag(&image.reference).about(&image.reference)?;
            say!("removed {}", image.reference);
        }
    }
    Ok(())
}
