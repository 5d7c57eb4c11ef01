//! `lamina inspect`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Global, store};
use crate::failure::{About, Failure};

/// Show what an image is made of
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina inspect debian:12
  lamina inspect debian:12 --json | jq .config.config.Env")]
pub(super) struct Inspect {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
}

/// An image, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report<'image> {
    reference: &'image str,
    manifest: String,
    platform: String,
    layers: Vec<LayerReport>,
    /// The image's config, as its manifest names it.
    config: &'image layer_store::ImageConfiguration,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    diff_id: String,
    /// Bytes of the uncompressed tar.
    bytes: u64,
    /// The store that has it.
    store: Option<PathBuf>,
    /// Where it can be had again.
    sources: Vec<layer_store::LayerSource>,
}

impl Inspect {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open(global)?;
        let image = store::image(&opened, &self.image)?;
        let layers = image.layers.iter().map(|layer| LayerReport {
            diff_id: layer.to_string(),
            bytes: opened.layer_bytes(layer).unwrap_or_default(),
            store: opened.store_of(layer).map(Path::to_owned),
            sources: opened.layer_sources(layer),
        });
        let report = Report {
            reference: &image.reference,
            manifest: image.manifest_digest.to_string(),
            platform: format!("{}/{}", image.config.os(), image.config.architecture()),
            layers: layers.collect(),
            config: &image.config,
        };
        if global.json {
            say!("{}", serde_json::to_string_pretty(&report).about("JSON")?);
        } else {
            report.print(opened.root());
        }
        Ok(0)
    }
}

impl Report<'_> {
    fn print(&self, root: &Path) {
        say!("image       {}", self.reference);
        say!("manifest    {}", self.manifest);
        say!("platform    {}", self.platform);
        if let Some(config) = self.config.config() {
            let list = |words: &Option<Vec<String>>| words.as_ref().map(|words| words.join(" ")).unwrap_or_default();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let rows = [
                ("entrypoint", list(config.entrypoint())),
                ("command", list(config.cmd())),
                ("directory", text(config.working_dir())),
                ("user", text(config.user())),
            ];
            for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
                say!("{name:10}  {value}");
            }
            for variable in config.env().iter().flatten() {
                say!("env         {variable}");
            }
        }
        for layer in &self.layers {
            let from = layer.sources.first().map(|source| format!("  from {}", source.origin)).unwrap_or_default();
            let elsewhere = layer.store.as_deref().filter(|store| *store != root);
            let place = elsewhere.map(|store| format!("  in {}", store.display())).unwrap_or_default();
            say!("layer       {}  {:>9}{from}{place}", layer.diff_id, super::size(layer.bytes));
        }
    }
}
