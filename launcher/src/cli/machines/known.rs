//! The machines of this user.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::rows::{self, describe};
use crate::cli::size;
use crate::failure::Failure;
use crate::machine::{self, Machine, Record, kept};
use crate::print;
use crate::spec::{Root, Spec};

/// Finds the machine with this name.
///
/// # Errors
/// No machine has it.
pub(in crate::cli) fn find(name: &str) -> Result<Machine, Failure> {
    Machine::find(name)
}

/// Like [`find`], for a word that may also name something else.
pub(in crate::cli) fn named(word: &str) -> Option<Machine> {
    machine::is_valid_name(word).then(|| Machine::find(word).ok()).flatten()
}

/// Returns the names and the manifests of the images that machines run on.
pub(in crate::cli) fn images_in_use() -> Result<HashSet<String>, Failure> {
    let of_one = |record: Record| {
        let spec = machine::directory_of(&record.name).and_then(|directory| Spec::read(&directory)).ok();
        let of_spec = spec.and_then(|spec| match spec.root {
            Root::Image { manifest, .. } => Some(manifest.to_string()),
            Root::Directory(_) => None,
        });
        [Some(record.root), of_spec].into_iter().flatten()
    };
    Ok(machine::all()?.into_iter().flat_map(of_one).collect())
}

/// A machine, as `lamina inspect --json` prints it.
#[derive(Debug, Serialize)]
struct Report<'machine> {
    #[serde(flatten)]
    record: &'machine Record,
    directory: &'machine Path,
    /// Absent for an ephemeral machine.
    spec: Option<&'machine Spec>,
}

/// Where a machine is kept, and what it was asked to be.
struct Kept {
    directory: PathBuf,
    spec: Option<Spec>,
}

impl Kept {
    fn of(machine: &Machine) -> Result<Self, Failure> {
        let directory = machine.directory()?;
        let spec = Spec::read(&directory).ok().map(Spec::without_secrets);
        Ok(Self { directory, spec })
    }

    fn report<'machine>(&'machine self, machine: &'machine Machine) -> Report<'machine> {
        Report { record: &machine.record, directory: &self.directory, spec: self.spec.as_ref() }
    }
}

/// Returns what `lamina inspect` prints.
pub(in crate::cli) fn inspected(machine: &Machine) -> Result<Value, Failure> {
    let kept = Kept::of(machine)?;
    Ok(rows::inspected(&machine.record, kept.spec.as_ref(), &kept.report(machine)))
}

/// Prints what `lamina inspect --json` prints.
pub(in crate::cli) fn print_json(machine: &Machine) -> Result<(), Failure> {
    print::json_pretty(&Kept::of(machine)?.report(machine))
}

/// Prints what `lamina inspect --text` prints.
pub(in crate::cli) fn print_text(machine: &Machine) -> Result<(), Failure> {
    let Kept { directory, spec } = Kept::of(machine)?;
    let record = &machine.record;
    say!("machine     {}", record.name);
    say!("root        {}", record.root);
    say!("state       {}", describe(&record.state));
    record.engine.iter().for_each(|engine| say!("engine      {engine}"));
    record.warnings.iter().for_each(|warning| say!("warning     {warning}"));
    say!("command     {}", record.command.join(" "));
    say!("directory   {}", directory.display());
    if let Some(spec) = &spec {
        print_spec(spec, &directory);
    }
    for process in &record.processes {
        say!("process     {} {}", process.pid, process.role);
    }
    Ok(())
}

fn print_spec(spec: &Spec, directory: &Path) {
    say!("processors  {}", spec.cpus);
    say!("memory      {} MiB", spec.memory_mib);
    say!("writes      {}", spec.writes);
    if let Some(bytes) = kept::taken(&directory.join(kept::DISK)) {
        say!("disk        {} used on the host", size(bytes));
    }
    for share in &spec.shares {
        let mode = if share.read_only { " (read-only)" } else { "" };
        say!("share       {} at {}{mode}", share.host.display(), share.guest);
    }
    spec.published.iter().for_each(|port| say!("port        {port}"));
    for (name, _) in &spec.process.env {
        say!("env         {name}");
    }
}
