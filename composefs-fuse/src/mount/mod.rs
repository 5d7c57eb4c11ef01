//! What every system needs for a mount: where, how, why not, how it has ended, and serving it in the background.

mod background;
mod error;
mod options;
mod point;
mod signals;

pub use background::BackgroundError;
pub(crate) use background::{detach, report_ready, start};
pub use error::MountError;
pub use options::{MountOptions, OptionError, split_options};
pub use point::MountPoint;
pub(crate) use signals::SignalThread;

#[cfg(target_os = "linux")]
pub(crate) use error::DEVICE;
#[cfg(target_os = "linux")]
pub(crate) use options::{SUBTYPE, escaped};

use crate::stats::Stats;
use std::sync::Arc;
use std::time::Duration;

/// How long threads may take to notice that their mount is gone. Those that wait in the kernel are woken at once, but one may
/// be reading from a slow disk.
pub(crate) const EXIT_PATIENCE: Duration = Duration::from_secs(5);

/// A mount that was served to its end.
#[derive(Debug)]
pub struct Served {
    /// How it ended.
    pub ended: Ended,
    /// What it was asked.
    pub stats: Arc<Stats>,
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was unmounted by another process.
    Unmounted,
    /// It was unmounted because of this signal.
    Signal(i32),
    /// The signal came while files were open. The mount is gone from the tree, and those files fail with `ENOTCONN`
    /// when this process ends. Threads may still be serving them.
    SignalWhileBusy(i32),
}
