//! Serving by our own loop over `/dev/fuse`, or by the crate `fuser`.

use std::path::PathBuf;

use composefs_fuse::linux::{ServeOptions, StatsOutlet, Transport};
use composefs_fuse::mount::MountOptions;

use crate::failure::{About, Failure};

/// Options of `lamina mount`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Serving {
    /// Answer `lamina stats` at this socket too [the default one is in $XDG_RUNTIME_DIR/lamina]
    #[arg(long, value_name = "SOCKET")]
    stats: Option<PathBuf>,
    /// How many threads answer the kernel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// What carries the kernel's requests: `device`, which is faster, or `fuser`, which is what a Mac has
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    transport: Transport,
}

impl Serving {
    /// Returns what these options say for a mount by `mount`.
    pub(in crate::cli) fn options(&self, mount: MountOptions) -> Result<ServeOptions, Failure> {
        let absolute = |path: &PathBuf| std::path::absolute(path).about(path.display());
        let stats = self.stats.as_ref().map(absolute).transpose()?.map_or(StatsOutlet::Default, StatsOutlet::At);
        Ok(ServeOptions { mount, threads: self.threads.into(), transport: self.transport, stats })
    }
}

/// Waits until servers whose mounts have been removed no longer use the store.
pub(in crate::cli) fn wait_for_ending_mounts() {
    // Without it, `lamina gc` keeps what they use.
    let _ = composefs_fuse::linux::wait_for_ending_mounts();
}
