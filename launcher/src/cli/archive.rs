//! `lamina save` and `lamina load`: archives as docker has them.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use layer_store::{Cancellation, ImportOptions, ImportSource};
use transfer_cli::{LimitArgs, PolicyArgs, SharingArgs};

use super::acquired::Quiet;
use super::{Global, import, layout_tar, store};
use crate::failure::{About, Failure, USAGE};
use crate::meter::Meter;

/// Write images to an archive that docker, podman and Lamina load
///
/// The archive is an OCI layout in a tar, with the list that older versions of docker read. Its layers are not compressed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina save -o app.tar app:1 db:2
  lamina save app:1 | ssh host docker load")]
pub(super) struct Save {
    /// The images
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Accepted: docker-archive and oci-archive are the same here
    #[arg(long, hide = true)]
    format: Option<String>,
}

impl Save {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.output.is_none() && rustix::stdio::stdout().is_terminal() {
            let failure = Failure::new("lamina save", "an archive is not written to a terminal");
            return Err(failure.with_hint("name a file with -o").with_status(USAGE));
        }
        let opened = store::look_into(global)?;
        let staging = layout_tar::staging(self.output.as_deref())?;
        let layout = staging.path().join("layout");
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let mut names: Vec<String> = Vec::new();
        for name in &self.images {
            let image = store::image(&opened, name)?;
            if names.contains(&image.reference) {
                continue;
            }
            let meter = Meter::new("saved", self.quiet).until(&cancellation);
            opened.images().export(&image, &layout, &meter).about("lamina save")?;
            names.push(image.reference);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        layout_tar::write(&layout, &names, self.output.as_deref(), staging.path())?;
        Ok(0)
    }
}

/// Add the images of an archive to the store, as `docker load` does
///
/// The same as `lamina import`, which has more options.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina load -i app.tar
  docker save app:1 | lamina load")]
pub(super) struct Load {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    quiet: Quiet,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Load {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.input.is_none() && io::stdin().is_terminal() {
            let failure = Failure::new("lamina load", "standard input is a terminal");
            return Err(failure.with_hint("name a file with -i").with_status(USAGE));
        }
        let opened = store::open_for_layers(global, &self.limits, &self.sharing)?;
        let source = self.input.as_deref().unwrap_or(Path::new("-"));
        let options = ImportOptions { policy: self.policy.policy(), ..ImportOptions::default() };
        import::import(global, &opened, &ImportSource::from(source.as_os_str()), &options, &self.quiet)
    }
}
