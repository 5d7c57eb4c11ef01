//! `lamina exec`.

use guest_protocol::Process;

use super::Global;
use super::outcome::{Outcome, refuse_json};
use crate::failure::Failure;
use crate::machine::{self, Machine, Signals};
use crate::spec::command;

/// Run a further command in a machine that runs
///
/// Its exit status becomes that of `lamina exec`, as for `lamina run`. It gets the environment, user and directory of
/// the machine's own command unless others are given. With --json, what it writes is shown in one object once it has
/// ended: name, status, signal, stdout, stderr. What of it is no UTF-8 is replaced there.
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
    /// Pass our standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable, or pass on one of ours
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The command's working directory, made when missing
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The command's user: a name or number, with ":GROUP" if it is to differ
    #[arg(short, long)]
    user: Option<String>,
    /// The command, behind "--"
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
        // What is not given here, the machine's supervisor knows.
        let process = Process {
            argv: self.command,
            env: command::environment(&self.env, terminal.is_some()).collect(),
            cwd: self.workdir,
            user: self.user,
            terminal,
            by_init: false,
        };
        let (outcome, ends) = Outcome::of(global, self.interactive);
        outcome.tell(&self.name, machine.exec(process, ends, signals)?)
    }
}
