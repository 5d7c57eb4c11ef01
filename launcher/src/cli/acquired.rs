//! The options and output that `lamina pull` and `lamina import` share.

use layer_store::{Acquired, AcquiredLayer};
use serde::Serialize;

use crate::failure::Failure;
use crate::print;

/// How much to print.
#[derive(Debug, clap::Args)]
pub(super) struct Quiet {
    /// Show no progress, and print only the names of the images
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// One image, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Row {
    /// The canonical names.
    references: Vec<String>,
    /// The digest of its manifest.
    manifest: String,
    platform: String,
    /// Lowest first.
    layers: Vec<LayerRow>,
}

#[derive(Debug, Serialize)]
struct LayerRow {
    diff_id: String,
    /// The digest of the compressed bytes.
    compressed: String,
    media_type: String,
    /// Size of the compressed layer in bytes.
    bytes: u64,
    /// Whether the store already had it.
    present: bool,
}

/// Prints the images that were added to the store.
pub(super) fn show(images: &[Acquired], json: bool, quiet: bool) -> Result<(), Failure> {
    if json {
        let rows: Vec<Row> = images.iter().map(row).collect();
        return print::json(&rows);
    }
    for image in images {
        for reference in &image.references {
            if quiet {
                say!("{}", reference.familiar());
            } else {
                say!("{}  {}  {}", reference.familiar(), image.manifest_digest, summary(&image.layers));
            }
        }
    }
    Ok(())
}

/// Prints an image that was pulled for another command on standard error.
#[cfg(target_os = "linux")]
pub(super) fn tell(image: &Acquired) {
    for reference in &image.references {
        tell!("lamina: pulled {}  {}", reference.familiar(), summary(&image.layers));
    }
}

fn row(image: &Acquired) -> Row {
    let layer = |layer: &AcquiredLayer| LayerRow {
        diff_id: layer.diff_id.to_string(),
        compressed: layer.source.compressed.to_string(),
        media_type: layer.source.media_type.clone(),
        bytes: layer.source.bytes,
        present: layer.was_present,
    };
    Row {
        references: image.references.iter().map(ToString::to_string).collect(),
        manifest: image.manifest_digest.to_string(),
        platform: image.platform.to_string(),
        layers: image.layers.iter().map(layer).collect(),
    }
}

/// Summarises how many layers are new and how many the store already had.
fn summary(layers: &[AcquiredLayer]) -> String {
    let new: Vec<&AcquiredLayer> = layers.iter().filter(|layer| !layer.was_present).collect();
    let bytes = new.iter().map(|layer| layer.source.bytes).sum();
    let present = layers.len() - new.len();
    match (new.len(), present) {
        (0, _) => "nothing new".to_owned(),
        (1, 0) => format!("1 layer, {}", super::size(bytes)),
        (count, 0) => format!("{count} layers, {}", super::size(bytes)),
        (count, present) => format!("{count} new of {} layers, {}", count + present, super::size(bytes)),
    }
}
