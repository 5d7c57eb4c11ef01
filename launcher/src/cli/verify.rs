//! `lamina verify`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use layer_store::{Cancellation, Damage, Progress, PullOptions, Silent, Store};

use super::{Global, store};
use crate::failure::{About, FAILED, Failure};

/// Prove that the layers of images are what their digests say
///
/// Reads every layer, with those that it borrows content from. Names each damaged layer, and the files in it whose content has changed; exit status 1 if there
/// is one that is not repaired.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina verify
  lamina verify debian:12
  lamina verify --repair debian:12")]
pub(super) struct Verify {
    /// The images [default: all]
    #[arg(value_name = "REF")]
    images: Vec<String>,
    /// Fetch damaged layers again from the registry that they came from
    #[arg(long)]
    repair: bool,
    /// Speak HTTP without TLS to registries that are not on this host
    #[arg(long, requires = "repair")]
    plain_http: bool,
    /// Trust these PEM certificates too
    #[arg(long, value_name = "FILE", requires = "repair")]
    ca_file: Option<PathBuf>,
}

impl Verify {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open(global)?;
        let mut layers = BTreeSet::new();
        for name in self.names(&opened)? {
            layers.extend(store::image(&opened, &name)?.layers);
        }
        // First those that others borrow from: what is mended there is mended for all.
        let donors: BTreeSet<_> = layers.iter().flat_map(|layer| opened.donors(layer)).collect();
        let borrowers: Vec<_> = layers.difference(&donors).copied().collect();
        let layers: Vec<_> = donors.into_iter().chain(borrowers).collect();
        let repair = if self.repair { Some(self.pull_options()?) } else { None };
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        let (mut damages, mut repaired) = (Vec::new(), Vec::new());
        for layer in &layers {
            let Some(damage) = opened.verify_layer(layer).about("lamina verify")? else { continue };
            if !global.json {
                report(&damage);
            }
            damages.push(damage);
            let Some(options) = &repair else { continue };
            match opened.repair_layer(layer, options, &progress) {
                Ok(()) => {
                    repaired.push(*layer);
                    if !global.json {
                        say!("layer {layer}: fetched again");
                    }
                }
                Err(error) if options.cancellation.is_cancelled() => return Err(Failure::new("lamina verify", error)),
                // The others may have better luck.
                Err(error) => tell!("lamina: {}", Failure::new("lamina verify", error)),
            }
        }
        if global.json {
            let report = serde_json::json!({ "layers": layers.len(), "damaged": damages, "repaired": repaired });
            say!("{report}");
        } else if damages.is_empty() {
            say!("{} layers are whole", layers.len());
        }
        Ok(if damages.len() == repaired.len() { 0 } else { FAILED })
    }

    fn names(&self, opened: &Store) -> Result<Vec<String>, Failure> {
        if !self.images.is_empty() {
            return Ok(self.images.clone());
        }
        let images = opened.images().about("store")?;
        Ok(images.into_iter().map(|image| image.reference).collect())
    }

    fn pull_options(&self) -> Result<PullOptions, Failure> {
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let (plain_http, ca_file) = (self.plain_http, self.ca_file.clone());
        Ok(PullOptions { plain_http, ca_file, cancellation, ..PullOptions::default() })
    }
}

fn report(damage: &Damage) {
    say!("layer {} is damaged: {}", damage.layer, damage.cause);
    match damage.paths.as_slice() {
        [] => say!("layer {}: no file is known to have changed", damage.layer),
        paths => paths.iter().for_each(|path| say!("layer {}: {path} has changed", damage.layer)),
    }
}
