//! `lamina inspect`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::machines::Machine;
use super::template::{self, Format};
use super::{Global, machines, store};
use crate::failure::{Failure, USAGE};
use crate::print;

/// Show the details of images and machines
///
/// Prints an array of JSON with the fields of docker, and beside them those of `--json`, which prints each document by itself
/// and without docker's fields. A name that both an image and a machine have needs --type. The values of a machine's
/// environment are not shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina inspect debian:12 | jq '.[0].Config.Env'
  lamina inspect --text debian:12
  lamina inspect debian:12 --json | jq .config.config.Env
  lamina inspect --type machine --format '{{.State.Status}}' web
  lamina inspect --type machine --json web | jq .processes")]
pub(super) struct Inspect {
    /// The images or machines
    #[arg(value_name = "REF|NAME", required = true)]
    names: Vec<String>,
    /// Whether NAME is an image or a machine
    #[arg(long = "type", value_enum)]
    kind: Option<Kind>,
    /// Print each by a template over docker's fields, such as '{{.State.Running}}', or as json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<Format>,
    /// Print the most important details as text
    #[arg(long, conflicts_with = "format")]
    text: bool,
    /// Accepted: sizes are shown
    #[arg(short, long, hide = true)]
    size: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Image,
    #[value(alias = "container")]
    Machine,
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
    /// Where it can be fetched again.
    sources: Vec<layer_store::LayerSource>,
}

impl Inspect {
    /// Takes the names for those of images or machines only.
    pub(super) fn of(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let mut rows = Vec::new();
        let shown = self.names.iter().try_for_each(|name| self.show(name, global, &mut rows));
        // As in docker, all that are found are one array.
        if !rows.is_empty() && !template::print(self.format.as_ref(), rows.iter().cloned())? {
            print::json_pretty(&rows)?;
        }
        shown.map(|()| 0)
    }

    /// Shows what a name means, or adds its row to `rows`, which are printed together.
    fn show(&self, name: &str, global: &Global, rows: &mut Vec<Value>) -> Result<(), Failure> {
        match self.kind {
            Some(Kind::Machine) => return self.show_machine(&machines::find(name)?, global, rows),
            Some(Kind::Image) => return self.show_image(name, global, rows),
            None => {}
        }
        let Some(machine) = machines::named(name) else { return self.show_image(name, global, rows) };
        let opened = store::find(global)?;
        if opened.is_ok_and(|opened| store::image(&opened, name).is_ok()) {
            return Err(Failure::new(name, "an image and a machine have this name")
                .with_hint("choose one with --type")
                .with_status(USAGE));
        }
        self.show_machine(&machine, global, rows)
    }

    fn show_machine(&self, machine: &Machine, global: &Global, rows: &mut Vec<Value>) -> Result<(), Failure> {
        match (global.json, self.text) {
            (true, _) => machines::print_json(machine),
            (_, true) => machines::print_text(machine),
            _ => machines::inspected(machine).map(|row| rows.push(row)),
        }
    }

    fn show_image(&self, name: &str, global: &Global, rows: &mut Vec<Value>) -> Result<(), Failure> {
        let opened = store::look_into(global)?;
        let image = store::image(&opened, name)?;
        let layers = image.layers.iter().map(|layer| LayerReport {
            diff_id: layer.to_string(),
            bytes: opened.layers().bytes(layer).unwrap_or_default(),
            store: opened.layers().store_of(layer).map(Path::to_owned),
            sources: opened.layers().sources(layer),
        });
        let report = Report {
            reference: &image.reference,
            manifest: image.manifest_digest.to_string(),
            platform: format!("{}/{}", image.config.os(), image.config.architecture()),
            layers: layers.collect(),
            config: &image.config,
        };
        if global.json {
            print::json_pretty(&report)?;
        } else if self.text {
            report.print(opened.root());
        } else {
            rows.push(super::rows::inspected_image(&opened, &image, &report));
        }
        Ok(())
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
