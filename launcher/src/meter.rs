//! Shows on one line how many bytes of content have been gone through; nothing where standard error is no terminal.

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

    /// The same line where it is known how many bytes there will be.
    pub(crate) fn of(self, total: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes:>10} of {total_bytes:>10} {bytes_per_sec:>12}");
        self.0.set_length(total);
        self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self
    }

    /// Does what prints something, with the line out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// More bytes are done.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
