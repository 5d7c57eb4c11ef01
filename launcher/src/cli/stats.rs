//! `lamina stats`.

use std::path::PathBuf;
use std::time::Duration;

use composefs_fuse::linux::{fetch_stats, find_stats_socket};
use composefs_fuse::stats::Snapshot;

use super::Global;
use crate::failure::{About, Failure};
use crate::machine;
use crate::print;

/// Show which requests a mount or a machine's root has answered, and how long that took
///
/// Prints one line for each kind of message of the FUSE protocol. The kernel caches the answers, so these counters show
/// only what it asked for the first time, or again after it had dropped its caches.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stats /tmp/debian
  lamina stats --watch 1 web-1
  lamina stats --json /tmp/debian | jq .messages.READ.count")]
pub(super) struct Stats {
    /// A mount point, the socket given to --stats, or a machine's name
    #[arg(value_name = "DIR|SOCKET|NAME")]
    target: PathBuf,
    /// Repeat every SECONDS, and show what was asked in between
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

impl Stats {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let socket = self.socket()?;
        let fetch = || {
            fetch_stats(&socket).map_err(|error| {
                Failure::new(self.target.display(), error)
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

    /// Returns the socket to ask. A target that exists is a path, and any other a name.
    fn socket(&self) -> Result<PathBuf, Failure> {
        let about = || self.target.display();
        match self.target.metadata() {
            Ok(found) if found.is_dir() => find_stats_socket(&self.target).about(about()),
            Ok(_) => Ok(self.target.clone()),
            Err(error) => match self.target.to_str().filter(|name| machine::is_valid_name(name)) {
                Some(name) => machine::stats_socket(name),
                None => Err(Failure::new(about(), error)),
            },
        }
    }
}

/// Prints a table, or one line of JSON.
fn show(snapshot: &Snapshot, json: bool) -> Result<(), Failure> {
    if json {
        return print::json(snapshot);
    }
    print::result_lines(&snapshot.to_string())
}
