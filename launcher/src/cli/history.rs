//! `lamina history`.

use chrono::DateTime;
use serde_json::json;

use super::template::FormatArg;
use super::{Global, rows, store};
use crate::failure::Failure;
use crate::print;

/// Show how an image was made, the newest step first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina history debian:12
  lamina history --no-trunc --format '{{.CreatedBy}}' app:1")]
pub(super) struct History {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// Do not shorten the steps
    #[arg(long)]
    no_trunc: bool,
    /// Print only the layers' digests
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
    /// Accepted: sizes are for people, unless with --json
    #[arg(short = 'H', long, hide = true, num_args = 0..=1, require_equals = true)]
    human: Option<Option<bool>>,
}

impl History {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::look_into(global)?;
        let image = store::image(&opened, &self.image)?;
        let mut layers = image.layers.iter();
        let mut steps = Vec::new();
        for step in image.config.history().iter().flatten() {
            let layer = if step.empty_layer().unwrap_or_default() { None } else { layers.next() };
            let bytes = layer.and_then(|layer| opened.layers().bytes(layer)).unwrap_or_default();
            let created = step.created().clone().unwrap_or_default();
            let since =
                DateTime::parse_from_rfc3339(&created).ok().and_then(|time| u64::try_from(time.timestamp()).ok());
            steps.push(json!({
                "ID": layer.map_or_else(|| "<missing>".to_owned(), ToString::to_string), "CreatedAt": created,
                "CreatedSince": since.map(rows::ago).unwrap_or_default(), "Size": super::size(bytes), "bytes": bytes,
                "CreatedBy": step.created_by().clone().unwrap_or_default(), "Comment": step.comment().clone().unwrap_or_default(),
            }));
        }
        // Layers without a step, as some builders leave them.
        for layer in layers {
            let bytes = opened.layers().bytes(layer).unwrap_or_default();
            steps.push(json!({
                "ID": layer.to_string(), "CreatedAt": "", "CreatedSince": "", "Size": super::size(bytes), "bytes": bytes,
                "CreatedBy": "", "Comment": "",
            }));
        }
        steps.reverse();
        if global.json {
            return print::json_pretty(&steps).map(|()| 0);
        }
        if self.format.print(steps.iter().cloned())? {
            return Ok(0);
        }
        let text = |step: &serde_json::Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
        if !self.quiet {
            say!("{:12}  {:>12}  {:>9}  CREATED BY", "LAYER", "CREATED", "SIZE");
        }
        for step in &steps {
            let id = if self.no_trunc { text(step, "ID") } else { rows::short(&text(step, "ID")) };
            if self.quiet {
                say!("{id}");
                continue;
            }
            let by = text(step, "CreatedBy").replace('\t', " ");
            let by = if self.no_trunc { by } else { rows::cut(&by, 60) };
            say!("{id:12}  {:>12}  {:>9}  {by}", text(step, "CreatedSince"), text(step, "Size"));
        }
        Ok(0)
    }
}
