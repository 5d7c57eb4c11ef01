//! `lamina shell`: a shell in a machine that runs, or in a new one.

use std::io::IsTerminal;

use super::exec::Exec;
use super::run::Run;
use crate::cli::{Global, store};
use crate::failure::{Failure, USAGE};
use crate::machine::{self, Machine};

/// What runs the better of two shells.
const SHELL: &str = "command -v bash > /dev/null && exec bash; exec sh";

/// Open a shell in a running machine, or in a new one on an image
///
/// Runs bash if the machine has it, else sh, at this terminal. A machine on an image has all options of `lamina run`, and is
/// removed when the shell ends unless --keep is given. In a machine that runs already, only --user, --workdir, --env and
/// --env-file mean something.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "lamina shell [OPTIONS] IMAGE\n       lamina shell [OPTIONS] NAME",
    after_help = "\
Examples:
  lamina shell debian:12
  lamina shell --engine container -v .:/work -w /work debian:12
  lamina shell --user www-data web"
)]
pub(in crate::cli) struct Shell {
    #[command(flatten)]
    run: Run,
}

impl Shell {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        let terminal = std::io::stdin().is_terminal();
        let shell = ["sh", "-c", SHELL].map(str::to_owned);
        let name = match self.run.only_word() {
            Ok(name) => name.to_owned(),
            Err(0) => return self.run.with_shell(terminal, shell).execute(global),
            Err(_) => {
                return Err(Failure::new("lamina shell", "takes an image or a machine, and no command")
                    .with_hint("use lamina run or lamina exec")
                    .with_status(USAGE));
            }
        };
        // Anything else is not a machine's name.
        let machine = machine::is_valid_name(&name).then(|| Machine::find(&name).ok()).flatten();
        match machine {
            Some(machine) if machine.runs() => {
                let words = [name].into_iter().chain(shell).collect();
                let options = self.run.for_exec();
                Exec { interactive: true, tty: terminal, words, ..options }.execute(global)
            }
            // It may be an image with the same name.
            Some(machine) if !store::find(global)?.is_ok_and(|opened| store::image(&opened, &name).is_ok()) => {
                Err(machine.not_running())
            }
            _ => self.run.with_shell(terminal, shell).execute(global),
        }
    }
}
