//! Serving by the crate `fuser`, with macFUSE.

use composefs_fuse::mount::MountOptions;
use composefs_fuse::portable::ServeOptions;

use crate::failure::Failure;

/// Options of `lamina mount`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Serving {}

impl Serving {
    /// Returns how to serve a mount by `mount`.
    #[expect(clippy::unused_self, reason = "as on Linux, which has options")]
    pub(in crate::cli) fn options(&self, mount: MountOptions) -> Result<ServeOptions, Failure> {
        Ok(ServeOptions { mount })
    }
}

/// Does nothing: servers cannot be asked whether they are ending. `lamina gc` keeps what they use.
pub(in crate::cli) fn wait_for_ending_mounts() {}
