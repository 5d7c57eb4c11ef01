//! `lamina umount`.

use std::path::PathBuf;

use composefs_fuse::linux::{Unmount, Unmounted, unmount};

use crate::failure::{About, FAILED, Failure};

/// Unmount images
///
/// Returns when the process that served the mount no longer uses the store, so that `lamina gc` afterwards frees what only the
/// mount used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina umount /tmp/debian
  lamina umount --lazy /tmp/debian")]
pub(in crate::cli) struct Umount {
    /// The directories
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// Remove it from the tree now, even if files are open; it ends when the last one is closed
    #[arg(long, short)]
    lazy: bool,
}

impl Umount {
    pub(in crate::cli) fn execute(&self) -> Result<u8, Failure> {
        let how = if self.lazy { Unmount::Lazy } else { Unmount::Clean };
        let mut status = 0;
        for directory in &self.directories {
            match unmount(directory, how).about("lamina umount") {
                Ok(Unmounted::Released) => {}
                Ok(Unmounted::StillHeld) => tell!(
                    "lamina: {}: unmounted, but the process that served it has not ended yet; until then the store keeps \
                     what it used",
                    directory.display()
                ),
                Err(failure) => {
                    // The other directories can still be unmounted.
                    tell!("lamina: {failure}");
                    status = FAILED;
                }
            }
        }
        Ok(status)
    }
}
