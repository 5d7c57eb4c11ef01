//! `lamina diff`.

use std::fmt;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;

use guest_protocol::Process;
use guest_protocol::changes::ChangeList;
use layer_store::printable;

use crate::cli::Global;
use crate::failure::{Failure, MACHINE_FAILED};
use crate::machine::launch;
use crate::machine::{Machine, Piped, SharedBuffer, Signals, Stdio};
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
pub(in crate::cli) struct Diff {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
}

/// The longest list of changes in bytes.
const MOST: u64 = 1 << 30;

impl Diff {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let machine = Machine::find(&self.name)?;
        let list = SharedBuffer::new(MOST);
        let ends = Stdio::output(Piped::new(list.clone()));
        let status = launch::run_tool(&machine, Process::tool(&["changes"]), ends, Signals::catch()?)?;
        let failed = |cause: &dyn fmt::Display| {
            Failure::new(format_args!("machine {}", self.name), format_args!("its changes could not be read{cause}"))
                .with_status(MACHINE_FAILED)
        };
        if status != 0 {
            return Err(failed(&""));
        }
        let wrong = |error: io::Error| failed(&format_args!(": {error}"));
        let mut changes = ChangeList::new(BufReader::new(list.read().map_err(wrong)?));
        let mut first = true;
        while let Some((letter, path)) = changes.next_entry().map_err(wrong)? {
            if global.json {
                let row = serde_json::json!({ "change": letter.to_string(), "path": path.to_string_lossy() });
                print::json_element(&row, first)?;
            } else {
                print::result_lines(&format!("{letter} {}\n", printable::bytes(path.as_os_str().as_bytes())))?;
            }
            first = false;
        }
        if global.json {
            print::result_lines(if first { "[]\n" } else { "\n]\n" })?;
        }
        Ok(0)
    }
}
