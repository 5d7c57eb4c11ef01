//! Shows on one line how many bytes have been processed. Hidden if standard error is not a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use layer_store::{Cancellation, Observer, printable};

/// The line on standard error.
#[derive(Debug)]
pub(crate) struct Meter {
    bar: ProgressBar,
    cancellation: Cancellation,
}

impl Meter {
    /// Creates a line that starts with `doing`.
    pub(crate) fn new(doing: &str, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{msg} {bytes:>10} {bytes_per_sec:>12}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(printable::line(doing).into_owned());
        Self { bar, cancellation: Cancellation::default() }
    }

    /// Returns the same line for work that `cancellation` ends.
    pub(crate) fn until(mut self, cancellation: &Cancellation) -> Self {
        self.cancellation = cancellation.clone();
        self
    }

    /// Adds the total number of bytes.
    pub(crate) fn of(self, total: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes:>10} of {total_bytes:>10} {bytes_per_sec:>12}");
        self.bar.set_length(total);
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self
    }

    /// Calls `print` with the line hidden.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Observer for Meter {
    fn progress(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn notice(&self, line: &str) {
        self.aside(|| tell!("lamina: {line}"));
    }

    fn cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }
}

/// Prints the notices of the store, such as that it waits for another process, and shows no progress.
#[derive(Debug)]
pub(crate) struct Told;

impl Observer for Told {
    fn notice(&self, line: &str) {
        tell!("lamina: {line}");
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
