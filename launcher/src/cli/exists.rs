//! `lamina container exists`, `image exists` and `volume exists`: questions of scripts, which the exit status answers.

use super::{Global, store};
use crate::failure::{FAILED, Failure};
use crate::machine;
use crate::machine::volumes::Volume;

/// Succeed if a machine has this name, and end with status 1 otherwise
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina container exists web || lamina run --detach --name web nginx:1")]
pub(super) struct MachineExists {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
}

/// Succeed if the store has this image, and end with status 1 otherwise
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina image exists app:1 || lamina load -i app.tar")]
pub(super) struct ImageExists {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
}

/// Succeed if a volume has this name, and end with status 1 otherwise
#[derive(Debug, clap::Args)]
pub(super) struct VolumeExists {
    /// The volume
    #[arg(value_name = "NAME")]
    name: String,
}

const fn answer(exists: bool) -> u8 {
    if exists { 0 } else { FAILED }
}

impl MachineExists {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        Ok(answer(machine::exists(&self.name)?))
    }
}

impl ImageExists {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        match store::find(global)? {
            Ok(opened) => Ok(answer(store::find_image(&opened, &self.image)?.is_some())),
            Err(_) => Ok(answer(false)),
        }
    }
}

impl VolumeExists {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        Ok(answer(Volume::find(&self.name)?.is_some()))
    }
}
