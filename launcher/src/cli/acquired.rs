//! What `lamina pull` and `lamina import` have in common.

use layer_store::{Acquired, AcquiredLayer};
use serde::Serialize;

/// How much to say.
#[derive(Debug, clap::Args)]
pub(super) struct Quiet {
    /// Print nothing but the names that the images have in the store
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
    /// From the bottom up.
    layers: Vec<LayerRow>,
}

#[derive(Debug, Serialize)]
struct LayerRow {
    diff_id: String,
    /// The digest of the bytes as they travel.
    compressed: String,
    media_type: String,
    /// Bytes that travel, or would have.
    bytes: u64,
    /// Whether the store had it before.
    present: bool,
}

/// Reads the number of layers to work on at once.
pub(super) fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err("write a number from 1 to 64".to_owned()),
    }
}

/// Prints what came into the store.
pub(super) fn print(images: &[Acquired], json: bool, quiet: bool) {
    if json {
        let rows: Vec<Row> = images.iter().map(row).collect();
        say!("{}", serde_json::json!(rows));
        return;
    }
    for image in images {
        for reference in &image.references {
            if quiet {
                say!("{}", reference.familiar());
            } else {
                say!("{}  {}  {}", reference.familiar(), image.manifest_digest, came(&image.layers));
            }
        }
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

/// How many layers came, and how many had not to.
fn came(layers: &[AcquiredLayer]) -> String {
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
