//! `lamina import`.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use layer_store::{
    Cancellation, ConfigChange, ImportOptions, ImportSource, Located, Observer, Platform, RootfsOptions, Store,
};
use transfer_cli::{Bars, LimitArgs, PolicyArgs, SharingArgs, parse_parallel};

use super::acquired::{self, Quiet};
use super::{Global, store};
use crate::failure::{Failure, USAGE};

/// Add images from archives, layouts or a docker daemon to the store
///
/// Archives may be compressed with gzip, zstd, xz or bzip2. All images of an archive are added, unless --image chooses.
/// An image without a name is named after its archive.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina import layout/ --tag example.test/app:1
  lamina import app.tar
  lamina import docker-daemon:app:1
  lamina import oci-archive:images.tar:1.0
  docker save app:1 | lamina import -
  docker export box | lamina import --rootfs - example.test/box --change 'CMD [\"/bin/sh\"]'")]
pub(super) struct Import {
    /// A layout directory, an archive, or - for standard input; also sources as skopeo and podman name them:
    /// oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] and docker-daemon:NAME
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// The name of the image that is created from a root file system
    #[arg(value_name = "REF", requires = "rootfs", conflicts_with = "tag")]
    reference: Option<String>,
    /// Create an image from the tar of a root file system, such as `docker export` writes
    #[arg(long, conflicts_with_all = ["image", "parallel"])]
    rootfs: bool,
    /// Change the config of that image, as an instruction of a Dockerfile does: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    /// ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR (repeatable)
    #[arg(short, long, value_name = "INSTRUCTION", requires = "rootfs")]
    change: Vec<ConfigChange>,
    /// A comment for that image's history
    #[arg(short, long, value_name = "TEXT", requires = "rootfs")]
    message: Option<String>,
    /// The name for the image, instead of its name in the archive
    #[arg(long, value_name = "REF")]
    tag: Option<String>,
    /// Add only the image with this name, tag or digest, or, as @N, the one at this position, counted from 0
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Choose this platform if there are several [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// The number of layers to read at once [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_parallel)]
    parallel: Option<usize>,
    #[command(flatten)]
    quiet: Quiet,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Import {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let opened = store::open_for_layers(global, &self.limits, &self.sharing)?;
        match self.rootfs {
            true => self.rootfs(global, &opened),
            false => self.images(global, &opened),
        }
    }

    fn images(&self, global: &Global, opened: &Store) -> Result<u8, Failure> {
        let tag = self.tag.as_deref().map(store::reference).transpose()?;
        let located = ImportSource::located(&self.source).unwrap_or_else(|| Located {
            source: ImportSource::from(self.source.as_os_str()),
            form: None,
            image: None,
        });
        if located.image.is_some() && self.image.is_some() {
            let failure = Failure::new("import", "the source and --image both choose an image");
            return Err(failure.with_hint("give one of them").with_status(USAGE));
        }
        let defaults = ImportOptions::default();
        let options = ImportOptions {
            platform: self.platform.clone(),
            image: located.image.or_else(|| self.image.clone()),
            tag,
            form: located.form,
            parallel: self.parallel.unwrap_or(defaults.parallel),
            policy: self.policy.policy(),
        };
        import(global, opened, &located.source, &options, &self.quiet)
    }

    fn rootfs(&self, global: &Global, opened: &Store) -> Result<u8, Failure> {
        let Some(name) = self.reference.as_deref().or(self.tag.as_deref()) else {
            let failure = Failure::new("import", "an image that is made of a root file system needs a name");
            return Err(failure.with_hint("write it after the file").with_status(USAGE));
        };
        let reference = store::reference(name)?;
        let options = RootfsOptions {
            platform: self.platform.clone(),
            changes: self.change.clone(),
            created: Some(DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true)),
            comment: self.message.clone(),
            policy: self.policy.policy(),
        };
        let source = ImportSource::from(self.source.as_os_str());
        let (bars, observer) = watch(&self.quiet)?;
        let imported = opened.images().import_rootfs(&source, &reference, &options, &observer);
        bars.finish();
        let image = imported.map_err(|error| Failure::of("import", &error))?;
        acquired::show(&[image], global.json, self.quiet.quiet)?;
        Ok(0)
    }
}

/// Imports and prints what was added.
pub(super) fn import(
    global: &Global,
    opened: &Store,
    source: &ImportSource,
    options: &ImportOptions,
    quiet: &Quiet,
) -> Result<u8, Failure> {
    let (bars, observer) = watch(quiet)?;
    let imported = opened.images().import(source, options, &observer);
    bars.finish();
    let images = imported.map_err(|error| Failure::of("import", &error))?;
    acquired::show(&images, global.json, quiet.quiet)?;
    Ok(0)
}

fn watch(quiet: &Quiet) -> Result<(Arc<Bars>, Arc<dyn Observer>), Failure> {
    let cancellation = Cancellation::default();
    store::cancel_on_signal(&cancellation)?;
    let bars = Arc::new(Bars::new("lamina", quiet.quiet, cancellation));
    let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
    Ok((bars, observer))
}
