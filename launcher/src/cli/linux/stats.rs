//! `lamina stats`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use composefs_fuse::linux::{fetch_stats, find_stats_socket};
use composefs_fuse::stats::Snapshot;

use super::usage;
use crate::cli::Global;
use crate::cli::template::FormatArg;
use crate::failure::{About, Failure};
use crate::machine::{self, Signals};
use crate::print;

/// Show what machines use, or which requests a mount or a machine's root has answered
///
/// Without a target, or with --no-stream or --format, shows the processors, memory and disk that machines use, every second
/// unless --no-stream is given. With a target, prints one line for each kind of message of the FUSE protocol. The kernel caches the answers, so these counters show
/// only what it asked for the first time, or again after it had dropped its caches.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stats --no-stream
  lamina stats /tmp/debian
  lamina stats --watch 1 web-1
  lamina stats --json /tmp/debian | jq .messages.READ.count")]
pub(in crate::cli) struct Stats {
    /// A mount point, the socket given to --stats, or a machine's name
    #[arg(value_name = "DIR|SOCKET|NAME")]
    targets: Vec<PathBuf>,
    /// Show once what the machines use
    #[arg(long, conflicts_with = "watch")]
    no_stream: bool,
    /// Show machines that have ended too
    #[arg(short, long)]
    all: bool,
    /// Accepted: names are whole
    #[arg(long, hide = true)]
    no_trunc: bool,
    #[command(flatten)]
    format: FormatArg,
    /// Repeat every SECONDS, and show what was asked in between
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

impl Stats {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let target = match self.targets.as_slice() {
            [target] if !self.no_stream && !self.format.is_given() => target,
            targets => return self.machines(targets, global),
        };
        let socket = socket(target)?;
        let fetch = || {
            fetch_stats(&socket).map_err(|error| {
                Failure::new(target.display(), error)
                    .with_hint("name a mount or machine of this user, or the socket it was given with --stats")
            })
        };
        let mut earlier = fetch()?;
        let Some(seconds) = self.watch else {
            show(&earlier, global.json)?;
            return Ok(0);
        };
        loop {
            std::thread::sleep(Duration::from_secs(seconds.into()));
            let now = fetch()?;
            show(&now.since(&earlier), global.json)?;
            earlier = now;
        }
    }

    /// Shows what machines use.
    fn machines(&self, targets: &[PathBuf], global: &Global) -> Result<u8, Failure> {
        let names: Vec<String> = targets.iter().map(|target| target.display().to_string()).collect();
        let signals = Signals::catch()?;
        loop {
            let rows = usage::rows(&names, self.all)?;
            if global.json {
                print::json_pretty(&rows)?;
            } else if !self.format.print(rows.iter().cloned())? {
                say!(
                    "{:20}  {:>8}  {:>24}  {:>24}  {:>5}",
                    "MACHINE",
                    "CPU",
                    "MEMORY / LIMIT",
                    "READ / WRITTEN",
                    "PIDS"
                );
                for row in &rows {
                    let text = |field: &str| row[field].as_str().unwrap_or_default();
                    say!(
                        "{:20}  {:>8}  {:>24}  {:>24}  {:>5}",
                        text("Name"),
                        text("CPUPerc"),
                        text("MemUsage"),
                        text("BlockIO"),
                        text("PIDs")
                    );
                }
            }
            if self.no_stream || signals.check().is_err() {
                return Ok(0);
            }
        }
    }
}

/// Returns the socket to ask. A target that exists is a path, and any other a name.
fn socket(target: &Path) -> Result<PathBuf, Failure> {
    let about = || target.display();
    match target.metadata() {
        Ok(found) if found.is_dir() => find_stats_socket(target).about(about()),
        Ok(_) => Ok(target.to_owned()),
        Err(error) => match target.to_str().filter(|name| machine::is_valid_name(name)) {
            Some(name) => machine::stats_socket(name),
            None => Err(Failure::new(about(), error)),
        },
    }
}

/// Prints a table, or one line of JSON.
fn show(snapshot: &Snapshot, json: bool) -> Result<(), Failure> {
    if json {
        return print::json(snapshot);
    }
    print::result_lines(&snapshot.to_string())
}
