//! `lamina pull`.

use std::sync::Arc;

use layer_store::{
    Acquired, Cancellation, ImageError, ImportOptions, ImportSource, IngestError, Located, Observer, Platform,
    PullError, PullOptions, Reference, Store, StoreError,
};
use transfer_cli::{Bars, CredsArg, LimitArgs, PolicyArgs, RegistryArgs, SharingArgs, parse_parallel, pull_first};

use super::acquired::{self, Quiet};
use super::{Global, import, store};
use crate::failure::{Failure, USAGE};

/// Fetch an image from a registry
///
/// Layers that the store already has are not fetched. The logins of docker, podman and skopeo are used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina pull debian:12
  lamina pull ghcr.io/a/b:c --platform linux/arm64
  lamina pull --all-tags ghcr.io/a/b
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
    /// Fetch the images for all platforms, and everything else that the image's index lists
    #[arg(long, alias = "all")]
    all_platforms: bool,
    /// Fetch all tags of a repository, which is named without one. If one fails, the others are fetched, and the exit status is 1
    #[arg(short, long)]
    all_tags: bool,
    /// Number of layers to fetch at once, and of connections for a large layer if each is slow
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_parallel)]
    parallel: usize,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    creds: CredsArg,
    #[command(flatten)]
    quiet: Quiet,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

/// What a pull has brought.
struct Pulled {
    images: Vec<Acquired>,
    /// Why not all of it came.
    failure: Option<Failure>,
}

/// Pulls all tags of the first of several repositories that exists. Tags of something else, such as signatures, are named
/// and left out. A tag that fails is named, and the others are pulled.
fn all_tags(
    opened: &Store,
    repositories: &[Reference],
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Pulled, PullError> {
    let mut repositories = repositories.iter().peekable();
    let tags = loop {
        let Some(repository) = repositories.next() else { return Err(PullError::Cancelled) };
        match opened.images().tags(repository, options, observer) {
            Err(error) if repositories.peek().is_some() && !matches!(error, PullError::Cancelled) => {
                observer.notice(&format!("{}: {error}; the next registry is tried", repository.familiar()));
            }
            outcome => break outcome?,
        }
    };
    let mut pulled = Pulled { images: Vec::new(), failure: None };
    let (mut failed, mut last) = (0, None);
    for tag in &tags {
        match opened.images().pull(tag, options, observer) {
            Ok(image) => pulled.images.push(image),
            Err(error) if !is_of_one_tag(&error) => {
                pulled.failure = Some(Failure::of("pull", &error));
                return Ok(pulled);
            }
            Err(error) if is_of_another_kind(&error) => {
                observer.notice(&format!("{}: {error}; it is left out", tag.familiar()));
                last = Some(error);
            }
            Err(error) => {
                observer.notice(&format!("{}: {error}; the other tags are pulled", tag.familiar()));
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let cause = format_args!("{failed} of {} tags cannot be pulled", tags.len());
        pulled.failure = Some(Failure::new("pull", cause));
    } else if pulled.images.is_empty() {
        pulled.failure = last.map(|error| Failure::of("pull", &error));
    }
    Ok(pulled)
}

/// Whether a tag is no image for this host.
fn is_of_another_kind(error: &PullError) -> bool {
    let PullError::Image { cause, .. } = error else { return false };
    matches!(cause, ImageError::NotAnImage(_) | ImageError::NoSuchPlatform { .. })
}

/// Whether an error says nothing about the other tags of a repository.
fn is_of_one_tag(error: &PullError) -> bool {
    match error {
        // The disk may be full.
        PullError::Layer { cause, .. } => {
            !matches!(cause.downcast_ref(), Some(IngestError::Store(_))) && !cause.is::<StoreError>()
        }
        // A server that fails was asked several times, and each tag would wait for it as long.
        PullError::Answer { status, .. } => *status < 500 && *status != 408,
        PullError::Foreign { source, .. } => is_of_one_tag(source),
        PullError::Image { .. }
        | PullError::NotFound { .. }
        | PullError::WrongLength { .. }
        | PullError::OutOfReach { .. }
        | PullError::Policy(_) => true,
        _ => false,
    }
}

impl Pull {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        // podman and skopeo pull from these sources too.
        if let Some(located) = ImportSource::located(self.image.as_ref()) {
            if self.all_tags {
                let failure = Failure::new("--all-tags", format!("{} is no repository of a registry", self.image));
                return Err(failure.with_hint("name an image there, or leave out --all-tags").with_status(USAGE));
            }
            return self.import(global, located);
        }
        let last = self.image.rsplit('/').next().unwrap_or_default();
        if self.all_tags && last.contains([':', '@']) {
            let failure = Failure::new("--all-tags", "the name has a tag or a digest already");
            return Err(failure.with_hint("name the repository only").with_status(USAGE));
        }
        let references = store::pullable(&self.image)?;
        let options = PullOptions {
            platform: self.platform.clone(),
            all_platforms: self.all_platforms,
            parallel: self.parallel,
            policy: self.policy.policy(),
            ..self.registry.options(Some(&self.creds))?
        };
        let opened = self.open(global)?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let bars = Arc::new(Bars::new("lamina", self.quiet.quiet, cancellation));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let pulled = match self.all_tags {
            true => all_tags(&opened, &references, &options, &observer),
            false => pull_first(&opened, &references, &options, &observer)
                .map(|image| Pulled { images: vec![image], failure: None }),
        };
        bars.finish();
        let Pulled { images, failure } = pulled.map_err(|error| Failure::of("pull", &error))?;
        if failure.is_none() || !images.is_empty() {
            acquired::show(&images, global.json, self.quiet.quiet)?;
        }
        failure.map_or(Ok(0), Err)
    }

    fn open(&self, global: &Global) -> Result<Store, Failure> {
        store::open_for_layers(global, &self.limits, &self.sharing)
    }

    fn import(&self, global: &Global, located: Located) -> Result<u8, Failure> {
        let Located { source, form, image } = located;
        let platform = self.platform.clone();
        let (parallel, policy) = (self.parallel, self.policy.policy());
        let options = ImportOptions { platform, form, image, parallel, policy, tag: None };
        import::import(global, &self.open(global)?, &source, &options, &self.quiet)
    }
}
