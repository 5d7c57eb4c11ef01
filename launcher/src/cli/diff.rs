//! `lamina diff`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::Process;
use guest_protocol::changes::parse_list;

use layer_store::printable;

use super::Global;
use crate::failure::{Failure, MACHINE_FAILED};
use crate::machine::launch;
use crate::machine::{Machine, Piped, Signals, Stdio};
use crate::print;

/// List the files that a machine has added (A), changed (C) and deleted (D)
///
/// The machine must be running or have been created with --keep. The disk of a stopped machine is read by booting its
/// kernel briefly; no program of the image runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina diff build
  lamina diff --json build | jq -r '.[].path'")]
pub(super) struct Diff {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
}

/// A shared buffer that collects bytes.
#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl io::Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Diff {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let machine = Machine::find(&self.name)?;
        let collected = Collected::default();
        let ends = Stdio::output(Piped::new(collected.clone()));
        let status = launch::run_tool(&machine, Process::tool(&["changes"]), ends, Signals::catch()?)?;
        if status != 0 {
            return Err(Failure::new(format_args!("machine {}", self.name), "its changes could not be read")
                .with_status(MACHINE_FAILED));
        }
        let bytes = collected.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = parse_list(&bytes);
        if global.json {
            let changes = changes.iter().map(
                |(letter, path)| serde_json::json!({ "change": letter.to_string(), "path": path.to_string_lossy() }),
            );
            print::json_pretty(&changes.collect::<Vec<_>>())?;
        } else {
            let line = |(letter, path): &(char, PathBuf)| {
                format!("{letter} {}\n", printable::bytes(path.as_os_str().as_bytes()))
            };
            print::result_lines(&changes.iter().map(line).collect::<String>())?;
        }
        Ok(0)
    }
}
