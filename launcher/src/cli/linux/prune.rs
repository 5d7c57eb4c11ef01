//! `lamina container prune` and `system prune`: removing what is not in use.

use super::ending;
use crate::cli::Global;
use crate::cli::gc::Gc;
use crate::cli::prune::{confirmed, images};
use crate::failure::Failure;
use crate::machine::volumes::Volume;
use crate::machine::{self, State};

/// Remove all machines that have ended
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina container prune --force")]
pub(in crate::cli) struct ContainerPrune {
    /// Confirm: what the machines wrote is lost
    #[arg(short, long)]
    force: bool,
}

/// Remove all machines that have ended, and collect garbage in the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina system prune --force
  lamina system prune --all --volumes --force")]
pub(in crate::cli) struct SystemPrune {
    /// Also remove images that no machine uses
    #[arg(short, long)]
    all: bool,
    /// Also remove volumes that no machine uses
    #[arg(long)]
    volumes: bool,
    /// Confirm: what the machines wrote is lost
    #[arg(short, long)]
    force: bool,
}

impl ContainerPrune {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        confirmed(self.force, "it removes all machines that have ended, and what they wrote")?;
        machines(global)
    }
}

impl SystemPrune {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        confirmed(self.force, "it removes all machines that have ended, and what they wrote")?;
        machines(global)?;
        if self.volumes {
            volumes()?;
        }
        if self.all {
            images(global)?;
        }
        Gc::default().execute(global)
    }
}

fn machines(global: &Global) -> Result<u8, Failure> {
    let ended = |state: &State| matches!(state, State::Created | State::Exited { .. } | State::Failed { .. });
    let names: Vec<String> =
        machine::all()?.into_iter().filter(|record| ended(&record.state)).map(|record| record.name).collect();
    ending::remove(&names, false, global)
}

/// Removes all volumes that no machine uses, and prints their names.
pub(super) fn volumes() -> Result<(), Failure> {
    for volume in Volume::all()? {
        if volume.users()?.is_empty() && volume.remove().is_ok() {
            say!("{}", volume.name);
        }
    }
    Ok(())
}
