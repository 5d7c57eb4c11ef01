//! The image of a machine, which is pulled if the store does not have it.

use std::sync::Arc;

use layer_store::{Cancellation, Image, Observer, Platform, PullError, PullOptions, Reference, Store};
use transfer_cli::{Bars, PolicyArgs, pull_first};

use crate::cli::{acquired, store};
use crate::failure::Failure;

/// Options of `lamina run` for an image that is not in the store.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Missing {
    /// When to pull the image: always, if it is missing, or never
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = false, default_value = "missing", default_missing_value = "always", hide_default_value = true)]
    pull: When,
    /// Choose this platform from a multi-platform image [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Show no progress of a pull
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    #[value(alias = "newer")]
    Always,
    #[value(alias = "true")]
    Missing,
    #[value(alias = "false")]
    Never,
}

impl Missing {
    /// Returns the image with this name, which is pulled if that is needed.
    pub(in crate::cli) fn image(&self, opened: &Store, name: &str) -> Result<Image, Failure> {
        let found = match self.pull {
            When::Always => None,
            When::Missing => {
                store::find_image(opened, name)?.map(|image| self.fitting(opened, image)).transpose()?.flatten()
            }
            When::Never => {
                let image = store::image(opened, name)?;
                let (reference, own) = (image.reference.clone(), platform(&image));
                return self.fitting(opened, image)?.ok_or_else(|| {
                    let wanted = self.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    Failure::new(reference, format_args!("it is kept for {own}, and not for {wanted}"))
                        .with_hint("pull it for that platform, without --pull never")
                });
            }
        };
        if let Some(image) = found {
            return Ok(image);
        }
        let references = store::pullable(name)?;
        let cancellation = Cancellation::default();
        let registered = store::cancel_on_signal(&cancellation)?;
        let (platform, policy) = (self.platform.clone(), self.policy.policy());
        let options = PullOptions { platform, policy, ..PullOptions::default() };
        let bars = Arc::new(Bars::new("lamina", self.quiet, cancellation));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let pulled = pull_first(opened, &references, &options, &observer);
        bars.finish();
        // Later signals are for the machine.
        for id in registered {
            signal_hook::low_level::unregister(id);
        }
        let pulled = pulled.map_err(|error| match store::reference(name) {
            Ok(reference) => self.failure(&reference, &error),
            Err(failure) => failure,
        })?;
        if !self.quiet {
            acquired::tell(&pulled);
        }
        store::image(opened, name)
    }

    /// Returns the image for the platform that is asked for: the one that the name refers to, or one that is kept with it.
    fn fitting(&self, opened: &Store, image: Image) -> Result<Option<Image>, Failure> {
        if self.is_for(&image) {
            return Ok(Some(image));
        }
        let Some(wanted) = &self.platform else { return Ok(None) };
        opened.images().for_platform(&image, wanted).map_err(|error| Failure::of(&image.reference, &error))
    }

    fn is_for(&self, image: &Image) -> bool {
        let own = platform(image);
        let is_own =
            |wanted: String| wanted.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.platform.as_ref().is_none_or(|wanted| is_own(wanted.to_string()))
    }

    fn failure(&self, reference: &Reference, error: &PullError) -> Failure {
        if self.pull == When::Always {
            return Failure::of(reference.familiar(), error);
        }
        let cause = format_args!("no image {:?} in the store, and it cannot be pulled: {error}", reference.to_string());
        let failure = Failure::new(reference.familiar(), cause);
        match crate::hint::hint(error) {
            Some(hint) => failure.with_hint(hint),
            None => failure.with_hint("`lamina images` lists what is there, `lamina import` adds from files"),
        }
    }
}

fn platform(image: &Image) -> String {
    format!("{}/{}", image.config.os(), image.config.architecture())
}
