//! `lamina du`.

use std::path::PathBuf;

use layer_store::Usage;

use super::{Global, size, store};
use crate::cli::du_svg;
use crate::failure::{About, Failure};
use crate::print;

/// Show the disk space of images and layers, and what sharing saves
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Examples:
  lamina du
  lamina du --layers
  lamina du --svg sharing.svg
  lamina du --json | jq '.saved_by_layers, .saved_by_files'")]
pub(super) struct Du {
    /// List layers too, with the images that use them and the layers they share content with
    #[arg(long)]
    layers: bool,
    /// Draw which images share which layers, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Du {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let usage = store::look_into(global)?.usage().about("lamina du")?;
        if let Some(path) = &self.svg {
            std::fs::write(path, du_svg::shared_layers(&usage)).about(path.display())?;
        }
        if global.json {
            print::json_pretty(&usage)?;
        } else {
            self.print(&usage);
        }
        Ok(0)
    }

    fn print(&self, usage: &Usage) {
        let names = usage.images.iter().map(|image| image.reference.len());
        let width = names.max().unwrap_or_default().max("IMAGE".len());
        let heads = ["TAR", "ON DISK", "SHARED", "ONLY HERE", "BORROWED"];
        say!("{:width$}  {}", "IMAGE", heads.map(|head| format!("{head:>10}")).join("  "));
        for image in &usage.images {
            let sizes = [image.apparent, image.on_disk, image.shared, image.unique, image.borrowed];
            let sizes = sizes.map(|bytes| format!("{:>10}", size(bytes))).join("  ");
            match &image.error {
                Some(error) => say!("{:width$}  not known: {error}", image.reference),
                None if image.elsewhere > 0 => {
                    say!("{:width$}  {sizes}  and {} in additional stores", image.reference, size(image.elsewhere));
                }
                None => say!("{:width$}  {sizes}", image.reference),
            }
        }
        for pin in &usage.pins {
            say!(
                "{} keeps {} in {} layers, of which {} only for it",
                pin.purpose,
                size(pin.on_disk),
                pin.layers.len(),
                size(pin.only_here)
            );
        }
        if self.layers {
            say!("");
            for layer in &usage.layers {
                let images: Vec<&str> = layer.images.iter().map(String::as_str).collect();
                let images = if images.is_empty() { "no image".to_owned() } else { images.join(" ") };
                say!("{}  {:>10}  {images}", layer.diff_id, size(layer.on_disk()));
                for (donor, bytes) in &layer.borrows {
                    let donor = if *donor == layer.diff_id { "itself".to_owned() } else { donor.to_string() };
                    say!("  {:>10} of its content is kept in {donor}", size(*bytes));
                }
            }
        }
        say!("");
        say!("layers     {:>10}", size(usage.blobs));
        say!("indexes    {:>10}", size(usage.indexes));
        if usage.remnants > 0 {
            say!("remnants   {:>10}  of removed layers, kept for layers that borrow from them", size(usage.remnants));
        }
        say!("bases      {:>10}", size(usage.bases));
        say!("manifests  {:>10}", size(usage.manifests));
        if usage.partial > 0 {
            say!(
                "partial    {:>10}  of layers whose transfer ended early; the next pull continues there",
                size(usage.partial)
            );
        }
        say!("saved      {:>10}  by layers that several images share", size(usage.saved_by_layers));
        say!("saved      {:>10}  by content that several layers share", size(usage.saved_by_files));
    }
}
