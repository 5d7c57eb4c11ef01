//! `lamina push`.

use std::path::PathBuf;
use std::sync::Arc;

use layer_store::{Cancellation, Observer, Packing, PullOptions, PushOptions, Pushed, Transfer};
use transfer_cli::{Bars, CredsArg, RegistryArgs, parse_parallel};

use super::{Global, store};
use crate::failure::{About, Failure};
use crate::print;

/// Send an image to a registry
///
/// The manifest that was pulled is sent byte for byte if its compressed layers can be had: they are not sent if the registry has
/// them or can take them from another repository, and are otherwise fetched again from where they came. Where that
/// fails, and for an image that was made here, the layers are compressed, and the image has a new digest.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina push registry.example.test/app:1
  lamina push app:1 registry.example.test/team/app:1 --compression zstd
  lamina push debian@sha256:0123... localhost:5000/debian:12
  lamina push --all-platforms --digestfile digest debian:12 localhost:5000/debian:12")]
pub(super) struct Push {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// The name to push it to [default: its own]
    #[arg(value_name = "NEW")]
    to: Option<String>,
    /// How layers are compressed that have to be compressed: gzip, zstd or none
    #[arg(long, alias = "compression-format", value_name = "KIND", default_value = "gzip")]
    compression: Packing,
    /// Compress every layer that is compressed in another way
    #[arg(long, conflicts_with = "preserve_digests")]
    force_compression: bool,
    /// Push the images for all platforms that `lamina pull --all-platforms` has brought in, with their index
    #[arg(long, alias = "all")]
    all_platforms: bool,
    /// Fail rather than push another manifest than the one that was pulled
    #[arg(long)]
    preserve_digests: bool,
    /// Write the digest of what was pushed to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Number of layers to send at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_parallel)]
    parallel: usize,
    /// Print only the digest
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    creds: CredsArg,
}

impl Push {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::look_into(global)?;
        let image = store::image(&opened, &self.image)?;
        let to = self.to.as_deref().unwrap_or(match store::reference(&self.image) {
            // An id has no registry.
            Ok(_) => &self.image,
            Err(_) => &image.reference,
        });
        let to = store::reference(to.strip_prefix("docker://").unwrap_or(to))?;
        let registry = PullOptions { parallel: self.parallel, ..self.registry.options(Some(&self.creds))? };
        let options = PushOptions {
            registry,
            packing: self.compression,
            force_packing: self.force_compression,
            all_platforms: self.all_platforms,
            preserve_digests: self.preserve_digests,
        };
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let bars = Arc::new(Bars::new("lamina", self.quiet, cancellation));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let pushed = opened.images().push(&image, &to, &options, &observer);
        bars.finish();
        let pushed = pushed.map_err(|error| Failure::of("push", &error))?;
        if let Some(file) = &self.digestfile {
            std::fs::write(file, format!("{}\n", pushed.digest)).about(file.display())?;
        }
        self.show(&pushed, global)?;
        Ok(0)
    }

    fn show(&self, pushed: &Pushed, global: &Global) -> Result<(), Failure> {
        let Pushed { reference, digest, is_new, layers } = pushed;
        if global.json {
            let layers = layers.iter().map(|layer| {
                let transfer = word(layer.transfer);
                serde_json::json!({ "digest": layer.digest.to_string(), "bytes": layer.bytes, "transfer": transfer })
            });
            return print::json(&serde_json::json!({
                "reference": reference.to_string(), "digest": digest.to_string(), "new": is_new,
                "layers": layers.collect::<Vec<_>>(),
            }));
        }
        if self.quiet {
            say!("{digest}");
            return Ok(());
        }
        let sent: u64 = layers.iter().filter(|layer| layer.transfer == Transfer::Sent).map(|layer| layer.bytes).sum();
        let count = |transfer: Transfer| layers.iter().filter(|layer| layer.transfer == transfer).count();
        let mut parts = Vec::new();
        for transfer in [Transfer::Sent, Transfer::Mounted, Transfer::Present, Transfer::Elsewhere] {
            match count(transfer) {
                0 => {}
                number => parts.push(format!("{number} {}", word(transfer))),
            }
        }
        let layers = if parts.is_empty() { "no layers".to_owned() } else { format!("layers: {}", parts.join(", ")) };
        say!("{}  {digest}  {layers}, {}", reference.familiar(), super::size(sent));
        Ok(())
    }
}

fn word(transfer: Transfer) -> &'static str {
    match transfer {
        Transfer::Present => "present",
        Transfer::Mounted => "mounted",
        Transfer::Sent => "sent",
        _ => "elsewhere",
    }
}
