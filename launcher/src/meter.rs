//! Shows on one line how many bytes have been processed; hidden where standard error is not a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The line on standard error.
#[derive(Debug)]
pub(crate) struct Meter(ProgressBar);

impl Meter {
    /// Creates a line that starts with `doing`.
    pub(crate) fn new(doing: &str, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{msg} {bytes:>10} {bytes_per_sec:>12}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(doing.to_owned());
        Self(bar)
    }

    /// Adds the total number of bytes.
    pub(crate) fn of(self, total: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes:>10} of {total_bytes:>10} {bytes_per_sec:>12}");
        self.0.set_length(total);
        self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self
    }

    /// Calls `print` with the line hidden.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Counts `bytes` more bytes.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
