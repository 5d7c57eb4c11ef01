//! Shows the progress of layers: a line for each on a terminal, only notices elsewhere.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use layer_store::{Cancellation, LayerProgress, LayerState, Observer, printable};

/// A progress line on standard error for each layer.
#[derive(Debug)]
pub struct Bars {
    program: &'static str,
    lines: MultiProgress,
    layers: Mutex<HashMap<String, (LayerState, ProgressBar)>>,
    cancellation: Cancellation,
}

impl Bars {
    /// Creates the lines, which are hidden if `quiet` is set or standard error is not a terminal. Notices begin with the name
    /// of the program. `cancellation` ends the work.
    #[must_use]
    pub fn new(program: &'static str, quiet: bool, cancellation: Cancellation) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { program, lines: MultiProgress::with_draw_target(target), layers: Mutex::default(), cancellation }
    }

    /// Clears the lines before other output.
    pub fn finish(&self) {
        let _ = self.lines.clear();
    }
}

impl Observer for Bars {
    fn layer(&self, progress: &LayerProgress<'_>) {
        if self.lines.is_hidden() {
            return;
        }
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, bar) = layers.entry(progress.name.to_owned()).or_insert_with(|| {
            // Hidden until its style is set.
            let bar = ProgressBar::hidden();
            bar.set_style(style(LayerState::Waiting));
            bar.set_prefix(printable::line(progress.name).into_owned());
            (LayerState::Waiting, self.lines.add(bar))
        });
        let word = match progress.state {
            LayerState::Waiting => "waiting",
            LayerState::Present => "already there",
            LayerState::Done => "done",
            _ => "",
        };
        if *shown != progress.state || bar.message().is_empty() {
            *shown = progress.state;
            bar.set_message(word);
            bar.set_style(style(progress.state));
        }
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_position(progress.bytes);
        if matches!(progress.state, LayerState::Present | LayerState::Done) {
            bar.abandon();
        }
    }

    fn notice(&self, line: &str) {
        let notice = format!("{}: {line}", self.program);
        let notice = printable::line(&notice);
        if self.lines.is_hidden() {
            // There is nowhere else to report a failure.
            let _ = io::stderr().write_all(format!("{notice}\n").as_bytes());
        } else {
            // The layers' lines are redrawn below it.
            let _ = self.lines.println(notice);
        }
    }

    fn cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }
}

fn style(state: LayerState) -> ProgressStyle {
    let template = match state {
        LayerState::Waiting | LayerState::Present => "{prefix:12!} {msg}",
        LayerState::Compressing => "{prefix:12!} {bar:30} {bytes:>10} of {total_bytes:>10} compressed",
        LayerState::Fetching | LayerState::Sending => {
            "{prefix:12!} {bar:30} {bytes:>10} of {total_bytes:>10} {bytes_per_sec:>12}"
        }
        _ => "{prefix:12!} {msg} {total_bytes}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
