//! `lamina export`.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer_store::{Cancellation, DiffId, Digest, Image, Observer, Packing, PullOptions, PushOptions, Reference, Store};
use transfer_cli::{Bars, RegistryArgs, parse_parallel};

use super::{Global, layout_tar, machines, store};
use crate::failure::{About, Failure, USAGE};
use crate::meter::Meter;
use crate::print;

/// Write an image as an OCI layout, or as the archive of one
///
/// The layers are plain tars with the DiffIDs that they have in the store; --preserve-digests writes them as they were pulled. docker,
/// podman, skopeo, umoci and `lamina import` read layouts and archives. A layout that exists gets the image in addition to
/// those that it has.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina export debian:12 ./debian-layout
  lamina export debian:12 ./layout && skopeo copy oci:layout docker-archive:debian.tar
  lamina export --preserve-digests debian:12 debian.tar
  lamina export debian:12 - | ssh host docker load")]
pub(super) struct Export {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// A new directory, an existing layout, a file that ends with .tar, or - for standard output; oci:DIR and oci-archive:FILE as
    /// in skopeo
    #[arg(value_name = "TARGET")]
    target: Option<PathBuf>,
    /// As docker has it
    #[arg(short, long, hide = true, value_name = "TARGET", conflicts_with = "target")]
    output: Option<PathBuf>,
    /// Write the manifest and the compressed layers that were pulled. What is not in the layout is fetched again from
    /// where it came
    #[arg(long)]
    preserve_digests: bool,
    /// Compress the layers: gzip, zstd or none
    #[arg(long, alias = "compression-format", value_name = "KIND", conflicts_with = "preserve_digests")]
    compression: Option<Packing>,
    /// Write the images for all platforms that `lamina pull --all-platforms` has brought in, with their index
    #[arg(long, alias = "all")]
    all_platforms: bool,
    /// Number of layers to write at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_parallel)]
    parallel: usize,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Where an image is written to.
enum Target {
    Layout(PathBuf),
    /// `None` is standard output.
    Archive(Option<PathBuf>),
}

impl Target {
    fn of(written: &Path) -> Self {
        let text = written.to_string_lossy();
        match text.split_once(':') {
            _ if text == "-" => Self::Archive(None),
            Some(("oci", directory)) => Self::Layout(directory.into()),
            Some(("oci-archive" | "docker-archive", file)) => Self::Archive(Some(file.into())),
            _ if written.extension().is_some_and(|extension| extension == "tar") && !written.is_dir() => {
                Self::Archive(Some(written.to_owned()))
            }
            _ => Self::Layout(written.to_owned()),
        }
    }
}

impl Export {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let written = self.target.as_ref().or(self.output.as_ref());
        if self.is_machine(global)? {
            let failure = Failure::new(&self.image, "it is a machine, not an image").with_hint(format_args!(
                "lamina exec {0} tar -C / --one-file-system -c . writes its files; or commit it first: lamina commit {0} REF",
                self.image
            ));
            return Err(failure.with_status(USAGE));
        }
        let Some(written) = written else {
            let failure = Failure::new("lamina export", "it is not said where the image is written to");
            return Err(failure.with_hint("name a directory, a file that ends with .tar, or -").with_status(USAGE));
        };
        let target = Target::of(written);
        if matches!(target, Target::Archive(None)) && rustix::stdio::stdout().is_terminal() {
            let failure = Failure::new("lamina export", "an archive is not written to a terminal");
            return Err(failure.with_hint("name a file").with_status(USAGE));
        }
        let opened = store::look_into(global)?;
        let image = store::image(&opened, &self.image)?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let (manifest, shown) = match target {
            Target::Layout(directory) => {
                let manifest = self.layout(&opened, &image, &directory, &cancellation)?;
                (manifest, Some(directory))
            }
            Target::Archive(file) => {
                let staging = layout_tar::staging(file.as_deref())?;
                let layout = staging.path().join("layout");
                let manifest = self.layout(&opened, &image, &layout, &cancellation)?;
                layout_tar::write(&layout, &[&image.reference], file.as_deref(), staging.path())?;
                (manifest, file)
            }
        };
        let promised = self.promised(&image);
        if promised.is_some_and(|digest| digest != manifest) && !self.is_original() {
            tell!(
                "lamina: the layers are written uncompressed, so the manifest is {manifest}: the name has no digest there"
            );
        }
        let Some(shown) = shown else { return Ok(0) };
        if global.json {
            print::json(&serde_json::json!({ "directory": shown, "manifest": manifest }))?;
        } else if !self.quiet {
            say!("exported {} to {}", self.image, shown.display());
        }
        Ok(0)
    }

    /// Whether a machine has the name. Fails if an image has it too.
    fn is_machine(&self, global: &Global) -> Result<bool, Failure> {
        if machines::named(&self.image).is_none() {
            return Ok(false);
        }
        if store::find(global)?.is_ok_and(|opened| store::image(&opened, &self.image).is_ok()) {
            return Err(Failure::new(&self.image, "an image and a machine have this name")
                .with_hint("name the image by its id or by another tag; export writes no machine's files")
                .with_status(USAGE));
        }
        Ok(true)
    }

    fn promised(&self, image: &Image) -> Option<Digest> {
        let of = |name: &str| name.parse::<Reference>().ok().and_then(|reference| reference.digest());
        of(&image.reference).or_else(|| of(&self.image))
    }

    fn is_original(&self) -> bool {
        self.preserve_digests || self.compression.is_some() || self.all_platforms
    }

    /// Writes a layout. Returns the digest of what its name refers to.
    fn layout(
        &self,
        opened: &Store,
        image: &Image,
        directory: &Path,
        cancellation: &Cancellation,
    ) -> Result<Digest, Failure> {
        if !self.is_original() {
            // Each layer is written, and then read where it came from.
            let distinct: HashSet<&DiffId> = image.layers.iter().collect();
            let bytes = distinct.into_iter().filter_map(|layer| opened.layers().bytes(layer));
            let meter = Meter::new("exported", self.quiet).of(bytes.map(|bytes| 2 * bytes).sum()).until(cancellation);
            return opened.images().export(image, directory, &meter).about("lamina export");
        }
        let registry = PullOptions { parallel: self.parallel, ..self.registry.options(None)? };
        let options = PushOptions {
            registry,
            packing: self.compression.unwrap_or(Packing::Plain),
            force_packing: !self.preserve_digests,
            all_platforms: self.all_platforms,
            preserve_digests: self.preserve_digests,
        };
        let bars = Arc::new(Bars::new("lamina", self.quiet, cancellation.clone()));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let exported = opened.images().export_as(image, directory, &options, &observer);
        bars.finish();
        exported.about("lamina export")
    }
}
