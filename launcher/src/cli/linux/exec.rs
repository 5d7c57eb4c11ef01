//! `lamina exec`.

use std::path::PathBuf;

use guest_protocol::Process;

use super::outcome::{Outcome, refuse_json};
use super::values::split_command;
use crate::cli::Global;
use crate::failure::Failure;
use crate::machine::{self, Machine, Signals};
use crate::spec::{command, secret};

/// Run a command in a running machine
///
/// `lamina exec` exits with the command's status, as `lamina run` does. The command gets the environment, user and working
/// directory of the machine's own command unless others are given. All that follows the machine's name is the command. --json prints
/// one object when the command has ended: name, status, signal, stdout and stderr, with invalid UTF-8 replaced.
#[derive(Debug, Default, clap::Args)]
#[command(
    override_usage = "lamina exec [OPTIONS] NAME CMD [ARG]...",
    after_help = "\
Examples:
  lamina exec web ps aux
  lamina exec -it web bash
  lamina exec -d web touch /tmp/started
  lamina exec -i db psql < dump.sql
  lamina exec --json web df / | jq -r .stdout"
)]
pub(in crate::cli) struct Exec {
    /// Pass standard input to the command
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set an environment variable; without a value, pass on this process's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// The command's working directory, created if missing
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// The command's user: a name or number, optionally followed by ":GROUP"
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// Read environment variables from a file with NAME=VALUE or NAME on each line
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Return once the command runs, and discard its output
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub(super) detach: bool,
    /// The machine, and the command to run in it
    #[arg(trailing_var_arg = true, num_args = 2.., required = true, value_names = ["NAME", "CMD"])]
    pub(super) words: Vec<String>,
}

impl Exec {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        if self.tty {
            refuse_json(global, "a terminal")?;
        }
        let (name, argv) = split_command(self.words);
        let env = secret::environment(&self.env_file, &self.env)?;
        let signals = Signals::catch()?;
        let machine = Machine::find(&name)?;
        let terminal = self.tty.then(machine::terminal_size);
        // The machine's supervisor fills in what is not given.
        let process = Process {
            argv,
            env: command::environment(&env, terminal.is_some()).collect(),
            cwd: self.workdir,
            user: self.user,
            terminal,
            ..Process::default()
        };
        if self.detach {
            return machine.spawn(process).map(|()| 0);
        }
        let (outcome, ends) = Outcome::of(global, self.interactive);
        outcome.tell(&name, machine.exec(process, ends, signals)?)
    }
}
