//! Shows on one line how many bytes of content have been written; nothing where standard error is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The line on standard error.
#[derive(Debug)]
pub(crate) struct Meter(ProgressBar);

impl Meter {
    /// A line that begins with `doing`.
    pub(crate) fn new(doing: &str, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{msg} {bytes:>10} {bytes_per_sec:>12}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(doing.to_owned());
        Self(bar)
    }

    /// More bytes have been written.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
