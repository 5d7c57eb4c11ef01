//! `lamina rename`.

use layer_store::Digest;

use super::values::parse_name;
use crate::cli::Global;
use crate::failure::{About, Failure};
use crate::machine;
use crate::open_store::open_store;
use crate::spec::{Root, Spec};

/// Give a stopped machine another name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stop web && lamina rename web web-old")]
pub(in crate::cli) struct Rename {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
    /// Its new name
    #[arg(value_name = "NEW", value_parser = parse_name)]
    to: String,
}

impl Rename {
    pub(super) fn execute(&self, _: &Global) -> Result<u8, Failure> {
        let old = machine::directory_of(&self.name)?;
        machine::rename(&self.name, &self.to)?;
        let new = machine::directory_of(&self.to)?;
        // The store knows the machine by its directory.
        if let Ok(Spec { root: Root::Image { store, also_read, manifest, layers, variant, .. }, .. }) = Spec::read(&new)
        {
            let manifest: Digest = manifest;
            let opened = open_store(&store, &also_read)?;
            opened.pins().add(&new, &format!("machine {}", self.to), &manifest, &layers, &variant).about("store")?;
            opened.pins().remove(&old).about("store")?;
        }
        Ok(0)
    }
}
