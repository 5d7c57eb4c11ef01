//! `lamina container exists` and `volume exists`: questions of scripts, which the exit status answers.

use crate::cli::exists::answer;
use crate::failure::Failure;
use crate::machine;
use crate::machine::volumes::Volume;

/// Succeed if a machine has this name, and end with status 1 otherwise
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina container exists web || lamina run --detach --name web nginx:1")]
pub(in crate::cli) struct MachineExists {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
}

/// Succeed if a volume has this name, and end with status 1 otherwise
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct VolumeExists {
    /// The volume
    #[arg(value_name = "NAME")]
    name: String,
}

impl MachineExists {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        Ok(answer(machine::exists(&self.name)?))
    }
}

impl VolumeExists {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        Ok(answer(Volume::find(&self.name)?.is_some()))
    }
}
