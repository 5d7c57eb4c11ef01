//! `lamina gc`.

use layer_store::{Collected, DiffId, Store};

use super::{Global, store};
use crate::failure::{About, Failure, USAGE};
use crate::print;

/// Remove layers and caches that no image, mount or machine needs
///
/// Everything that a running command, mount or machine uses stays, even if its image has been removed. If other layers
/// borrow content from a removed layer, that content stays and only the rest is freed.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Examples:
  lamina gc --dry-run
  lamina gc
  lamina gc --explain sha256:0123...")]
pub(super) struct Gc {
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print what needs a layer, and remove nothing
    #[arg(long, value_name = "LAYER", conflicts_with = "dry_run")]
    explain: Option<String>,
}

impl Gc {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = match store::find(global)? {
            Ok(opened) => opened,
            // There is nothing to collect, but the path may be a mistake.
            Err(none) if self.explain.is_none() => {
                tell!("lamina: store: {none}");
                return self.print(&Collected::default(), global);
            }
            Err(none) => return Err(Failure::new("store", none)),
        };
        if let Some(layer) = &self.explain {
            let layer = meant(&opened, layer)?;
            let holders = opened.layers().holders(&layer).about("lamina gc")?;
            if global.json {
                print::json(&serde_json::json!({ "layer": layer, "holders": holders }))?;
            } else if holders.is_empty() {
                say!("nothing: the next `lamina gc` removes it");
            }
            holders.iter().filter(|_| !global.json).for_each(|holder| say!("{holder}"));
            return Ok(0);
        }
        self.print(&opened.collect(self.dry_run).about("lamina gc")?, global)
    }

    fn print(&self, collected: &Collected, global: &Global) -> Result<u8, Failure> {
        if global.json {
            print::json_pretty(collected)?;
            return Ok(0);
        }
        let verb = if self.dry_run { "would remove" } else { "removed" };
        for garbage in &collected.garbage {
            let kind = format!("{:?}", garbage.kind).to_lowercase();
            say!("{verb} {kind} {} ({})", garbage.name, super::size(garbage.bytes));
        }
        say!("{verb} {} items, {}", collected.garbage.len(), super::size(collected.bytes));
        Ok(0)
    }
}

/// Finds the layer with this digest, or the only one whose digest starts with it.
fn meant(opened: &Store, text: &str) -> Result<DiffId, Failure> {
    let whole = |error| Failure::new(text, error).with_status(USAGE);
    if !text.strip_prefix("sha256:").is_some_and(|hex| (6..64).contains(&hex.len())) {
        return text.parse().map_err(whole);
    }
    let mut layers = opened.layers().list().about("store")?;
    layers.retain(|layer| layer.to_string().starts_with(text));
    match layers.as_slice() {
        [only] => Ok(*only),
        [] => Err(Failure::new(text, "no layer has a digest that starts with this")
            .with_hint("`lamina du --layers` lists them")),
        _ => {
            Err(Failure::new(text, "several layers have a digest that starts with this").with_hint("give more digits"))
        }
    }
}
