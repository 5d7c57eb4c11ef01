//! `lamina container prune`, `image prune` and `system prune`: removing what is not in use.

use std::collections::HashSet;

use super::gc::Gc;
use super::{Global, ending, store};
use crate::failure::{About, Failure, USAGE};
use crate::machine::volumes::Volume;
use crate::machine::{self, State};
use crate::spec::{Root, Spec};

/// Remove all machines that have ended
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina container prune --force")]
pub(super) struct ContainerPrune {
    /// Confirm: what the machines wrote is lost
    #[arg(short, long)]
    force: bool,
}

/// Collect garbage in the store and, with --all, remove all images that no machine uses
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina image prune
  lamina image prune --all --force")]
pub(super) struct ImagePrune {
    /// Remove images that no machine uses
    #[arg(short, long)]
    all: bool,
    /// Confirm --all
    #[arg(short, long)]
    force: bool,
}

/// Remove all machines that have ended, and collect garbage in the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina system prune --force
  lamina system prune --all --volumes --force")]
pub(super) struct SystemPrune {
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

impl ImagePrune {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.all {
            confirmed(self.force, "it removes all images that no machine uses")?;
            images(global)?;
        }
        Gc::default().execute(global)
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

/// Nothing is asked: a script would wait for an answer.
pub(super) fn confirmed(force: bool, what: &str) -> Result<(), Failure> {
    match force {
        true => Ok(()),
        false => Err(Failure::new("prune", what).with_hint("confirm with --force").with_status(USAGE)),
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

fn images(global: &Global) -> Result<(), Failure> {
    let opened = store::look_into(global)?;
    let used: HashSet<String> = machine::all()?
        .into_iter()
        .flat_map(|record| {
            let spec = machine::directory_of(&record.name).and_then(|directory| Spec::read(&directory)).ok();
            let of_spec = spec.and_then(|spec| match spec.root {
                Root::Image { manifest, .. } => Some(manifest.to_string()),
                Root::Directory(_) => None,
            });
            [Some(record.root), of_spec].into_iter().flatten()
        })
        .collect();
    for image in opened.images().list().about("store")? {
        let is_used = used.contains(&image.reference) || used.contains(&image.manifest_digest.to_string());
        if !is_used && image.store == opened.root() {
            opened.images().untag(&image.reference).about(&image.reference)?;
            say!("removed {}", image.reference);
        }
    }
    Ok(())
}
