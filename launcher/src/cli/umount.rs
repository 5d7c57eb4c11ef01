//! `lamina umount`.

use std::path::PathBuf;

use composefs_fuse::linux::{Unmount, unmount};

use crate::failure::{About, FAILED, Failure};

/// Take mounts away; what served them ends
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina umount /tmp/debian
  lamina umount --lazy /tmp/debian")]
pub(super) struct Umount {
    /// The directories
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// Take it out of the tree now even if files are open, and end when the last is closed
    #[arg(long, short)]
    lazy: bool,
}

impl Umount {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let how = if self.lazy { Unmount::Lazy } else { Unmount::Clean };
        let mut status = 0;
        for directory in &self.directories {
            if let Err(failure) = unmount(directory, how).about("lamina umount") {
                // The others are no worse for it.
                tell!("lamina: {failure}");
                status = FAILED;
            }
        }
        Ok(status)
    }
}
