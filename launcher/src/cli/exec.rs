//! `lamina exec`.

use guest_protocol::Process;

use super::Global;
use super::outcome::{Outcome, refuse_json};
use crate::failure::Failure;
use crate::machine::{self, Machine, Signals};
use crate::spec::command;

/// Run a command in a running machine
///
/// `lamina exec` exits with the command's status, as `lamina run` does. The command gets the environment, user and working
/// directory of the machine's own command unless others are given. --json prints one object when the command has ended:
/// name, status, signal, stdout and stderr, with invalid UTF-8 replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina exec web -- ps aux
  lamina exec -it web -- bash
  lamina exec -i db -- psql < dump.sql
  lamina exec --json web -- df / | jq -r .stdout")]
pub(super) struct Exec {
    /// The machine
    name: String,
    /// Pass standard input to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable; without a value, pass on this process's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The command's working directory, created if missing
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The command's user: a name or number, optionally followed by ":GROUP"
    #[arg(short, long)]
    user: Option<String>,
    /// The command, after "--"
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        if self.tty {
            refuse_json(global, "a terminal")?;
        }
        let signals = Signals::catch()?;
        let machine = Machine::find(&self.name)?;
        let terminal = self.tty.then(machine::terminal_size);
        // The machine's supervisor fills in what is not given.
        let process = Process {
            argv: self.command,
            env: command::environment(&self.env, terminal.is_some()).collect(),
            cwd: self.workdir,
            user: self.user,
            terminal,
            ..Process::default()
        };
        let (outcome, ends) = Outcome::of(global, self.interactive);
        outcome.tell(&self.name, machine.exec(process, ends, signals)?)
    }
}
