//! `lamina pull`.

use std::path::PathBuf;
use std::sync::Arc;

use layer_store::{Cancellation, ImportOptions, ImportSource, Located, Observer, Platform, PullOptions, Store};

use super::acquired::{self, Quiet};
use super::bars::Bars;
use super::limits::{LimitArgs, SharingArgs};
use super::{Global, import, store};
use crate::failure::Failure;

/// Fetch an image from a registry
///
/// Layers that the store already has are not fetched. The logins of docker, podman and skopeo are used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina pull debian:12
  lamina pull ghcr.io/a/b:c --platform linux/arm64
  lamina pull localhost:5000/x@sha256:0123...
  lamina pull registry.example.test/x --ca-file ca.pem")]
pub(super) struct Pull {
    /// The image, as people write it: debian, debian:12, ghcr.io/a/b:c; also the sources of `lamina import` with their
    /// prefixes, such as docker-daemon:NAME
    #[arg(value_name = "REF")]
    image: String,
    /// Choose this platform from a multi-platform image [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Use HTTP without TLS (detected automatically for registries on this host)
    #[arg(long)]
    plain_http: bool,
    /// Trust the certificates in this PEM file too
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Number of layers to fetch at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = super::acquired::parallel)]
    parallel: usize,
    #[command(flatten)]
    quiet: Quiet,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Pull {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        // podman and skopeo pull from these sources too.
        if let Some(located) = ImportSource::located(self.image.as_ref()) {
            return self.import(global, located);
        }
        let reference = store::reference(&self.image)?;
        let opened = self.open(global)?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let options = PullOptions {
            platform: self.platform.clone(),
            plain_http: self.plain_http,
            ca_file: self.ca_file.clone(),
            parallel: self.parallel,
            ..PullOptions::default()
        };
        let bars = Arc::new(Bars::new(self.quiet.quiet, cancellation));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let pulled = opened.images().pull(&reference, &options, &observer);
        bars.finish();
        let image = pulled.map_err(|error| Failure::of("pull", &error))?;
        acquired::show(&[image], global.json, self.quiet.quiet)?;
        Ok(0)
    }

    fn open(&self, global: &Global) -> Result<Store, Failure> {
        let opened = store::open(global)?.with_limits(self.limits.limits());
        Ok(opened.with_file_sharing(self.sharing.shares_files()))
    }

    fn import(&self, global: &Global, located: Located) -> Result<u8, Failure> {
        let Located { source, form, image } = located;
        let platform = self.platform.clone();
        let options = ImportOptions { platform, form, image, parallel: self.parallel, ..ImportOptions::default() };
        import::import(global, &self.open(global)?, &source, &options, &self.quiet)
    }
}
