//! `lamina umount`.

use std::path::PathBuf;

use composefs_fuse::portable::unmount;

use crate::failure::{About, FAILED, Failure};

/// Unmount images
///
/// The process that served the mount ends a moment later; `lamina gc` before that keeps what the mount used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina umount /tmp/debian")]
pub(in crate::cli) struct Umount {
    /// The directories
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
}

impl Umount {
    pub(in crate::cli) fn execute(&self) -> Result<u8, Failure> {
        let mut status = 0;
        for directory in &self.directories {
            if let Err(failure) = unmount(directory).about("lamina umount") {
                // The other directories can still be unmounted.
                tell!("lamina: {failure}");
                status = FAILED;
            }
        }
        Ok(status)
    }
}
