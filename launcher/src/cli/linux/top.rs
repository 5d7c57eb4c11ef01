//! `lamina top`.

use std::io::Read;

use guest_protocol::Process;

use super::outcome::Outcome;
use crate::cli::Global;
use crate::failure::{About, Failure};
use crate::machine::{Captured, Machine, SharedBuffer, Signals, Stdio};
use crate::print;

/// Show the processes of a running machine
///
/// The machine's init lists them, so that its image needs no ps. With options of ps, the ps of the image does.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "lamina top NAME [PS-OPTION]...",
    after_help = "\
Examples:
  lamina top web
  lamina top web -eo pid,rss,comm"
)]
pub(in crate::cli) struct Top {
    /// The machine, and options of ps
    #[arg(trailing_var_arg = true, required = true, value_name = "NAME")]
    words: Vec<String>,
}

impl Top {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        let (name, options) = super::values::split_command(self.words);
        let signals = Signals::catch()?;
        let machine = Machine::find(&name)?;
        let process = match options.is_empty() {
            true => Process::tool(&["ps"]),
            false => Process { argv: ["ps".to_owned()].into_iter().chain(options).collect(), ..Process::default() },
        };
        if global.json {
            let (outcome, ends) = Outcome::of(global, false);
            return outcome.tell(&name, machine.exec(process, ends, signals)?);
        }
        // Processes choose what they are called, and may have been started by what an image holds.
        let captured = Captured::default();
        let ending = machine.exec(process, Stdio::output(captured.clone()), signals)?;
        let text = |buffer: SharedBuffer| -> Result<String, Failure> {
            let mut bytes = Vec::new();
            buffer.read().and_then(|mut read| read.read_to_end(&mut bytes)).about("temporary file")?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        print::result_lines(&text(captured.stdout)?)?;
        let errors = text(captured.stderr)?;
        if !errors.is_empty() {
            print::message_lines(errors.trim_end());
        }
        Ok(ending.shell_status())
    }
}
