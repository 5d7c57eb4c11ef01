//! `lamina verify`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use layer_store::{Cancellation, Damage, DiffId, Observer, PullOptions, Store};

use super::{Global, store};
use crate::failure::{About, FAILED, Failure};
use crate::meter::Meter;
use crate::print;

/// Check that the layers of images match their digests
///
/// Reads every layer, and the layers it borrows content from. Names each damaged layer and the files in it that have
/// changed. Exits with 1 if damage remains.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina verify
  lamina verify debian:12
  lamina verify --repair debian:12
  lamina verify --repair --from app.tar app:1")]
pub(super) struct Verify {
    /// The images [default: all]
    #[arg(value_name = "REF")]
    images: Vec<String>,
    /// Fetch damaged layers again, from the registry or the file that they came from
    #[arg(long)]
    repair: bool,
    /// Take them from this OCI layout or archive instead
    #[arg(long, value_name = "PATH", requires = "repair")]
    from: Option<PathBuf>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    /// Use HTTP without TLS for registries on other hosts
    #[arg(long, requires = "repair")]
    plain_http: bool,
    /// Trust the certificates in this PEM file too
    #[arg(long, value_name = "FILE", requires = "repair")]
    ca_file: Option<PathBuf>,
}

/// What was found and done.
#[derive(Default)]
struct Findings {
    damages: Vec<Damage>,
    repaired: Vec<DiffId>,
    /// Images and names whose layers are not known, and why.
    unreadable: Vec<String>,
}

impl Verify {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::look_into(global)?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let mut found = Findings::default();
        let layers = self.layers(&opened, &mut found)?;
        if !global.json {
            found.unreadable.iter().for_each(|cause| say!("{cause}"));
        }
        let total = layers.iter().filter_map(|layer| opened.layers().bytes(layer)).sum();
        let meter = Meter::new("read", self.quiet).of(total).until(&cancellation);
        for layer in &layers {
            let damage = opened.layers().verify(layer, &meter);
            let Some(damage) = damage.about("lamina verify")? else { continue };
            meter.aside(|| self.treat(&opened, damage, &cancellation, global, &mut found))?;
        }
        drop(meter);
        let Findings { damages, repaired, unreadable } = &found;
        if global.json {
            let count = layers.len();
            print::json(&serde_json::json!({
                "layers": count, "damaged": damages, "repaired": repaired, "unreadable": unreadable,
            }))?;
        } else if damages.is_empty() {
            say!("{}", intact(layers.len()));
        }
        Ok(if damages.len() == repaired.len() && unreadable.is_empty() { 0 } else { FAILED })
    }

    /// Returns the layers of the images, donors first: a repaired donor repairs the layers that borrow from it.
    fn layers(&self, opened: &Store, found: &mut Findings) -> Result<Vec<DiffId>, Failure> {
        let mut layers = BTreeSet::new();
        for name in self.names(opened, found)? {
            match store::image(opened, &name) {
                Ok(image) => {
                    match opened.images().others(&image) {
                        Ok(others) => layers.extend(others.into_iter().flat_map(|other| other.layers)),
                        Err(error) => found.unreadable.push(format!("image {name}: {error}")),
                    }
                    layers.extend(image.layers);
                }
                // The other images can still be verified.
                Err(failure) if self.images.is_empty() => found.unreadable.push(format!("image {failure}")),
                Err(failure) => return Err(failure),
            }
        }
        let donors: BTreeSet<_> = layers.iter().flat_map(|layer| opened.layers().donors(layer)).collect();
        let borrowers: Vec<_> = layers.difference(&donors).copied().collect();
        Ok(donors.into_iter().chain(borrowers).collect())
    }

    /// Reports what is wrong with a layer, and repairs it if asked to.
    fn treat(
        &self,
        opened: &Store,
        damage: Damage,
        cancellation: &Cancellation,
        global: &Global,
        found: &mut Findings,
    ) -> Result<(), Failure> {
        let layer = damage.layer;
        if !global.json {
            report(&damage);
        }
        found.damages.push(damage);
        if !self.repair {
            return Ok(());
        }
        let observer: Arc<dyn Observer> = Arc::new(cancellation.clone());
        match opened.layers().repair(&layer, self.from.as_deref(), &self.pull_options(), &observer) {
            Ok(()) => {
                found.repaired.push(layer);
                if !global.json {
                    say!("layer {layer}: fetched again");
                }
                Ok(())
            }
            Err(error) if cancellation.is_cancelled() => Err(Failure::of("lamina verify", &error)),
            // Other layers may still be repairable.
            Err(error) => {
                tell!("lamina: {}", Failure::of("lamina verify", &error));
                Ok(())
            }
        }
    }

    fn names(&self, opened: &Store, found: &mut Findings) -> Result<Vec<String>, Failure> {
        if !self.images.is_empty() {
            return Ok(self.images.clone());
        }
        let unreadable = opened.images().unreadable().about("store")?;
        found.unreadable.extend(unreadable.iter().map(|error| format!("name {error}")));
        let images = opened.images().list().about("store")?;
        Ok(images.into_iter().map(|image| image.reference).collect())
    }

    fn pull_options(&self) -> PullOptions {
        let (plain_http, ca_file) = (self.plain_http, self.ca_file.clone());
        PullOptions { plain_http, ca_file, ..PullOptions::default() }
    }
}

fn intact(layers: usize) -> String {
    if layers == 1 { "1 layer is intact".to_owned() } else { format!("{layers} layers are intact") }
}

fn report(damage: &Damage) {
    if damage.missing {
        say!("layer {} is missing: {}", damage.layer, damage.cause);
        return;
    }
    say!("layer {} is damaged: {}", damage.layer, damage.cause);
    match damage.paths.as_slice() {
        [] => say!("layer {}: no changed file was found", damage.layer),
        paths => paths.iter().for_each(|path| say!("layer {}: {path} has changed", damage.layer)),
    }
}
