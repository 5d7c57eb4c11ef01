//! `lamina images`.

use std::path::PathBuf;

use layer_store::{ImageSummary, Reference, Store, printable};
use serde::Serialize;

use super::filter::{self, Filter};
use super::template::FormatArg;
use super::{Global, rows, store};
use crate::failure::{About, Failure};
use crate::print;

/// List the images of the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina images
  lamina images 'example.test/*' --format '{{.Repository}}:{{.Tag}} {{.ID}}'
  lamina images -q | xargs lamina verify
  lamina images --json | jq -r '.[].reference'")]
pub(super) struct Images {
    /// Show images with this repository, or this name only; * stands for any characters
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print names only
    #[arg(long, short)]
    quiet: bool,
    /// Show images that fit: reference=PATTERN, label=NAME[=VALUE], dangling=BOOL, id=DIGITS,
    /// before=IMAGE, since=IMAGE
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[command(flatten)]
    format: FormatArg,
    /// Show whole digests
    #[arg(long)]
    no_trunc: bool,
    /// Accepted: all images are shown
    #[arg(long, short, hide = true)]
    all: bool,
    /// Show the digests under which the images were pulled: that of the index, or else of the manifest
    #[arg(long)]
    digests: bool,
}

/// One image, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Row {
    /// The canonical name.
    reference: String,
    /// The digest of its manifest.
    manifest: String,
    /// The digest of the image index that the name referred to where the image came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<String>,
    /// How many manifests of that index are kept besides this one.
    #[serde(skip_serializing_if = "is_zero")]
    others: usize,
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
        filter::check(&self.filter, &["reference", "label", "dangling", "id", "before", "since"])?;
        let images: Vec<ImageSummary> = images.into_iter().filter(|image| self.fits(&opened, image)).collect();
        let rows: Vec<Row> = images.iter().map(|image| row(&opened, image)).collect();
        if global.json {
            print::json_pretty(&rows)?;
            return Ok(0);
        }
        if self.format.print(rows.iter().map(|row| self.in_docker(&opened, row)))? {
            return Ok(0);
        }
        let names: Vec<String> = rows.iter().map(|row| familiar(&row.reference)).collect();
        if self.quiet {
            names.iter().for_each(|name| say!("{name}"));
            return Ok(0);
        }
        let width = names.iter().map(String::len).max().unwrap_or_default().max("IMAGE".len());
        let digits = if self.no_trunc { 71 } else { 19 };
        let head = if self.digests { "DIGEST" } else { "MANIFEST" };
        // A digest is shown to be copied.
        let digits = if self.digests { 71 } else { digits };
        say!("{:width$}  {:digits$}  {:>6}  {:>9}", "IMAGE", head, "LAYERS", "SIZE");
        let place = |row: &Row| match row.store == opened.root() {
            true => String::new(),
            false => format!("  in {}", row.store.display()),
        };
        for (name, row) in names.iter().zip(&rows) {
            let shown = if self.digests { row.digest() } else { &row.manifest };
            let manifest = shown.get(..digits).unwrap_or(shown);
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

    fn fits(&self, opened: &Store, image: &ImageSummary) -> bool {
        let (repository, tag, _) = rows::name_parts(&image.reference);
        let is_named = |pattern: &str| {
            let whole = format!("{repository}:{tag}");
            [&repository, &whole, &image.reference].into_iter().any(|name| filter::matches(pattern, name))
        };
        let config_has = |wanted: &str| {
            let found = opened.images().get(&image.reference).ok();
            let labels = found.and_then(|image| image.config.config().as_ref()?.labels().clone());
            filter::has_label(&labels.unwrap_or_default().into_iter().collect(), wanted)
        };
        self.name.as_deref().is_none_or(is_named)
            && filter::fits(&self.filter, |filter| match filter.key.as_str() {
                "reference" => is_named(&filter.value),
                "label" => config_has(&filter.value),
                // All images have names.
                "dangling" => filter.value == "false",
                "before" | "since" => {
                    let when = |name: &str| opened.images().get(name).ok().and_then(|image| rows::created(&image));
                    let other = store::image(opened, &filter.value).ok().and_then(|image| rows::created(&image));
                    let (own, other) = (when(&image.reference), other);
                    own.zip(other)
                        .is_some_and(|(own, other)| if filter.key == "since" { own > other } else { own < other })
                }
                _ => image.manifest_digest.to_string().trim_start_matches("sha256:").starts_with(&filter.value),
            })
    }

    fn in_docker(&self, opened: &Store, row: &Row) -> serde_json::Value {
        let (repository, tag, digest) = rows::name_parts(&row.reference);
        let created = opened.images().get(&row.reference).ok().and_then(|image| rows::created(&image));
        let id = if self.no_trunc { row.manifest.clone() } else { rows::short(&row.manifest) };
        let docker = serde_json::json!({
            "ID": id, "Repository": repository, "Tag": tag, "Digest": digest.unwrap_or_else(|| row.digest().to_owned()),
            "CreatedAt": created.map(rows::time).unwrap_or_default(), "CreatedSince": created.map(rows::ago).unwrap_or_default(),
            "Size": super::size(row.bytes),
        });
        rows::beside(docker, row)
    }
}

impl Row {
    /// Returns the digest under which the image was pulled.
    fn digest(&self) -> &str {
        self.index.as_ref().unwrap_or(&self.manifest)
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
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
    let ImageSummary { reference, manifest_digest, index, others, store } = summary.clone();
    let (index, others) = (index.map(|index| index.to_string()), others.len());
    Row { reference, manifest: manifest_digest.to_string(), index, others, layers, bytes, store, error }
}

/// Returns the short name that people write.
fn familiar(reference: &str) -> String {
    let name = reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |reference| reference.familiar());
    printable::line(&name).into_owned()
}
