//! `lamina start`.

use super::Global;
use crate::failure::Failure;
use crate::machine::{self, Directory, Signals};

/// Start machines again that have ended
///
/// They run the command that they were made with, in the background, on a tree without what they wrote unless they were
/// made with --keep.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stop db && lamina start db")]
pub(super) struct Start {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Start {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        let mut started = Vec::new();
        for name in &self.names {
            machine::start_detached(Directory::reopen(name)?, &signals)?;
            if !global.json {
                say!("{name}");
            }
            started.push(serde_json::json!({ "name": name, "outcome": "started" }));
        }
        if global.json {
            say!("{}", serde_json::Value::from(started));
        }
        Ok(0)
    }
}
