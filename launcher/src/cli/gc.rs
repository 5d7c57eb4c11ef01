//! `lamina gc`.

use layer_store::DiffId;

use super::{Global, store};
use crate::failure::{About, Failure, USAGE};

/// Remove what no image, mount or machine needs
///
/// What a running command, mount or machine uses stays, whatever its name means by now. Of a layer that goes, the content
/// stays that other layers borrow: that is said as the part that goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina gc --dry-run
  lamina gc
  lamina gc --explain sha256:0123...")]
pub(super) struct Gc {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say who needs a layer, and remove nothing
    #[arg(long, value_name = "LAYER", conflicts_with = "dry_run")]
    explain: Option<String>,
}

impl Gc {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open(global)?;
        if let Some(layer) = &self.explain {
            let layer: DiffId = layer.parse().map_err(|error| Failure::new(layer, error).with_status(USAGE))?;
            let holders = opened.holders(&layer).about("lamina gc")?;
            if global.json {
                say!("{}", serde_json::json!({ "layer": layer, "holders": holders }));
            } else if holders.is_empty() {
                say!("nobody: the next `lamina gc` removes it");
            }
            holders.iter().filter(|_| !global.json).for_each(|holder| say!("{holder}"));
            return Ok(0);
        }
        let collected = opened.collect(self.dry_run).about("lamina gc")?;
        if global.json {
            say!("{}", serde_json::to_string_pretty(&collected).about("JSON")?);
            return Ok(0);
        }
        let verb = if self.dry_run { "would remove" } else { "removed" };
        for garbage in &collected.garbage {
            let kind = format!("{:?}", garbage.kind).to_lowercase();
            say!("{verb} {kind} {} ({})", garbage.name, super::size(garbage.bytes));
        }
        say!("{verb} {} things, {}", collected.garbage.len(), super::size(collected.bytes));
        Ok(0)
    }
}
