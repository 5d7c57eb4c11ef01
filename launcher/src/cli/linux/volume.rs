//! `lamina volume`: named volumes.

use clap::Subcommand;

use super::exists::VolumeExists;
use super::guest_options::labels;
use super::prune as machine_prune;
use crate::cli::filter::{self, Filter};
use crate::cli::prune;
use crate::cli::template::{self, Format, FormatArg};
use crate::cli::{Global, rows};
use crate::failure::{FAILED, Failure};
use crate::machine;
use crate::machine::volumes::Volume;
use crate::print;

/// Create, list and remove named volumes
///
/// A named volume is a directory of yours that machines share: `lamina run -v NAME:/path` creates it, and fills it with what
/// the image has at that path. It stays until it is removed. What machines write there belongs to you on this host.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  lamina run -v db:/var/lib/db -v cache:/cache:ro app:1
  lamina volume ls
  lamina volume inspect db
  lamina volume rm db
  lamina volume prune --force")]
pub(in crate::cli) enum Volumes {
    /// Create a volume, and print its name
    Create {
        /// The name; a random one by default
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Add a label
        #[arg(short, long, value_name = "NAME[=VALUE]")]
        label: Vec<String>,
        /// Accepted: a volume is always a directory of this host
        #[arg(short, long, hide = true, value_parser = ["local"])]
        driver: Option<String>,
        /// Do not fail if the volume exists, as docker does; it never fails
        #[arg(long, hide = true)]
        ignore: bool,
    },
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show where a volume is and which machines use it, as JSON
    Inspect {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Print each by a template over docker's fields, such as '{{.Mountpoint}}', or as json
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<Format>,
    },
    /// Remove volumes and what is in them
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Do not fail for a volume that does not exist
        #[arg(short, long)]
        force: bool,
    },
    Exists(VolumeExists),
    /// Remove all volumes that no machine uses
    Prune {
        /// Confirm: what is in the volumes is lost
        #[arg(short, long)]
        force: bool,
        /// Accepted: all volumes have names
        #[arg(short, long, hide = true)]
        all: bool,
    },
}

/// Options of the list.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
    /// Show volumes that fit: name=TEXT, label=NAME[=VALUE], dangling=BOOL (whether no machine uses it)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[command(flatten)]
    format: FormatArg,
}

impl Volumes {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        match self {
            Self::Create { name, label, .. } => {
                let name = name.unwrap_or_else(|| machine::random_name().replace("vm-", "volume-"));
                Volume::find_or_create(&name, labels(&label))?;
                say!("{name}");
                Ok(0)
            }
            Self::Ls(list) => list.execute(global),
            Self::Inspect { names, format } => {
                let reports = names.iter().map(|name| report(&found(name)?)).collect::<Result<Vec<_>, Failure>>()?;
                match template::print(format.as_ref(), reports.iter().cloned())? {
                    true => Ok(0),
                    false => print::json_pretty(&reports).map(|()| 0),
                }
            }
            Self::Rm { names, force } => Ok(remove(&names, force)),
            Self::Exists(exists) => exists.execute(),
            Self::Prune { force, .. } => {
                prune::confirmed(force, "it removes all volumes that no machine uses, and what is in them")?;
                machine_prune::volumes().map(|()| 0)
            }
        }
    }
}

fn found(name: &str) -> Result<Volume, Failure> {
    Volume::find(name)?.ok_or_else(|| {
        Failure::new(format_args!("volume {name}"), "no such volume").with_hint("`lamina volume ls` lists them")
    })
}

fn report(volume: &Volume) -> Result<serde_json::Value, Failure> {
    Ok(serde_json::json!({
        "Name": volume.name, "Driver": "local", "Mountpoint": volume.data(), "Labels": volume.labels, "Scope": "local",
        "CreatedAt": rows::time(volume.created), "Options": {}, "UsedBy": volume.users()?,
    }))
}

impl List {
    fn execute(&self, global: &Global) -> Result<u8, Failure> {
        filter::check(&self.filter, &["name", "label", "dangling"])?;
        let mut rows = Vec::new();
        for volume in Volume::all()? {
            let users = volume.users()?;
            let fits = filter::fits(&self.filter, |Filter { key, value }| match key.as_str() {
                "name" => volume.name.contains(value),
                "label" => filter::has_label(&volume.labels, value),
                _ => users.is_empty() == matches!(value.as_str(), "true" | "1"),
            });
            if fits {
                rows.push((report(&volume)?, volume.name, users.join(" ")));
            }
        }
        if global.json {
            let reports: Vec<_> = rows.into_iter().map(|(report, ..)| report).collect();
            return print::json_pretty(&reports).map(|()| 0);
        }
        if self.format.print(rows.iter().map(|(report, ..)| report.clone()))? {
            return Ok(0);
        }
        if !self.quiet {
            say!("{:20}  MACHINES", "VOLUME");
        }
        for (_, name, users) in rows {
            match self.quiet {
                true => say!("{name}"),
                false => say!("{name:20}  {users}"),
            }
        }
        Ok(0)
    }
}

fn remove(names: &[String], force: bool) -> u8 {
    let mut status = 0;
    for name in names {
        match found(name).and_then(|volume| volume.remove()) {
            Ok(()) => say!("{name}"),
            Err(_) if force && matches!(Volume::find(name), Ok(None)) => {}
            Err(failure) => {
                tell!("lamina: {failure}");
                status = FAILED;
            }
        }
    }
    status
}
