//! `lamina top`.

use guest_protocol::Process;

use super::Global;
use super::outcome::Outcome;
use crate::failure::Failure;
use crate::machine::{Machine, Signals};

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
pub(super) struct Top {
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
        let (outcome, ends) = Outcome::of(global, false);
        outcome.tell(&name, machine.exec(process, ends, signals)?)
    }
}
