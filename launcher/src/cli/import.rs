//! `lamina import`.

use std::ffi::OsString;
use std::sync::Arc;

use layer_store::{Cancellation, ImportOptions, ImportSource, Observer, Platform};

use super::acquired::{self, Quiet};
use super::bars::Bars;
use super::limits::{LimitArgs, SharingArgs};
use super::{Global, hint, store};
use crate::failure::Failure;

/// Take images from an OCI layout, an OCI or Docker archive, or standard input
///
/// Archives may be compressed with gzip or zstd. All images of an archive are taken, unless --image chooses.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina import layout/ --tag example.test/app:1
  lamina import app.tar
  docker save app:1 | lamina import -")]
pub(super) struct Import {
    /// A layout directory, an archive, or - for standard input
    #[arg(value_name = "PATH")]
    source: OsString,
    /// Call the image so, instead of its name in the archive
    #[arg(long, value_name = "REF")]
    tag: Option<String>,
    /// Take only the image with this name, tag or digest
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Choose this platform where there are several [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Read so many layers at once [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = super::acquired::parallel)]
    parallel: Option<usize>,
    #[command(flatten)]
    quiet: Quiet,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Import {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let tag = self.tag.as_deref().map(store::reference).transpose()?;
        let opened = store::open(global)?.with_limits(self.limits.limits());
        let opened = opened.with_file_sharing(self.sharing.shares_files());
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let defaults = ImportOptions::default();
        let options = ImportOptions {
            platform: self.platform.clone(),
            image: self.image.clone(),
            tag,
            parallel: self.parallel.unwrap_or(defaults.parallel),
        };
        let bars = Arc::new(Bars::new(self.quiet.quiet, cancellation));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let imported = opened.images().import(&ImportSource::from(self.source.as_os_str()), &options, &observer);
        bars.finish();
        let images = imported.map_err(|error| hint::failure("import", &error))?;
        acquired::print(&images, global.json, self.quiet.quiet);
        Ok(0)
    }
}
