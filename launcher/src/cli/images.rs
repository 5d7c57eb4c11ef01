//! `lamina images`.

use std::path::PathBuf;

use layer_store::{ImageSummary, Reference, Store, printable};
use serde::Serialize;

use super::{Global, store};
use crate::failure::{About, Failure};
use crate::print;

/// List the images of the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina images
  lamina images -q | xargs lamina verify
  lamina images --json | jq -r '.[].reference'")]
pub(super) struct Images {
    /// Print names only
    #[arg(long, short)]
    quiet: bool,
}

/// One image, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Row {
    /// The canonical name.
    reference: String,
    /// The digest of its manifest.
    manifest: String,
    /// Number of layers.
    layers: usize,
    /// Uncompressed size of all layers in bytes, including layers that other images share.
    bytes: u64,
    /// The store that holds the name.
    store: PathBuf,
    /// Why the image cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Images {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::look_into(global)?;
        let images = opened.images().list().about("store")?;
        let rows: Vec<Row> = images.iter().map(|image| row(&opened, image)).collect();
        if global.json {
            print::json_pretty(&rows)?;
            return Ok(0);
        }
        let names: Vec<String> = rows.iter().map(|row| familiar(&row.reference)).collect();
        if self.quiet {
            names.iter().for_each(|name| say!("{name}"));
            return Ok(0);
        }
        let width = names.iter().map(String::len).max().unwrap_or_default().max("IMAGE".len());
        say!("{:width$}  {:19}  {:>6}  {:>9}", "IMAGE", "MANIFEST", "LAYERS", "SIZE");
        let place = |row: &Row| match row.store == opened.root() {
            true => String::new(),
            false => format!("  in {}", row.store.display()),
        };
        for (name, row) in names.iter().zip(&rows) {
            let manifest = row.manifest.get(..19).unwrap_or(&row.manifest);
            match &row.error {
                Some(error) => say!("{name:width$}  {manifest}  {error}"),
                None => {
                    let (layers, bytes) = (row.layers, super::size(row.bytes));
                    say!("{name:width$}  {manifest}  {layers:>6}  {bytes:>9}{}", place(row));
                }
            }
        }
        Ok(0)
    }
}

fn row(opened: &Store, summary: &ImageSummary) -> Row {
    let image = opened.images().get(&summary.reference);
    let (layers, bytes, error) = match &image {
        Ok(image) => {
            let bytes = image.layers.iter().map(|layer| opened.layers().bytes(layer).unwrap_or_default()).sum();
            let missing = image.layers.iter().find(|layer| !opened.layers().has(layer));
            (image.layers.len(), bytes, missing.map(|layer| format!("layer {layer} is missing: pull the image again")))
        }
        Err(error) => (0, 0, Some(error.to_string())),
    };
    let ImageSummary { reference, manifest_digest, store } = summary.clone();
    Row { reference, manifest: manifest_digest.to_string(), layers, bytes, store, error }
}

/// Returns the short name that people write.
fn familiar(reference: &str) -> String {
    let name = reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |reference| reference.familiar());
    printable::line(&name).into_owned()
}
