//! `lamina start`.

use super::ending::Names;
use super::outcome::Outcome;
use crate::cli::Global;
use crate::failure::{Failure, USAGE};
use crate::machine::launch;
use crate::machine::{self, Directory, Machine, ReadyPipe, Signals, State};
use crate::print;
use crate::spec::Spec;

/// Start stopped machines again
///
/// Each runs its original command. What it wrote is there again only if it was created with --keep. Machines start in the
/// background; --attach runs one at this terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stop db && lamina start db
  lamina run --keep --name dev debian:12 bash
  lamina start --attach dev")]
pub(in crate::cli) struct Start {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Attach standard output and error, and a terminal, and exit with the command's status, as `lamina run` does
    #[arg(short, long)]
    attach: bool,
    /// With --attach: pass standard input to the command, even if it is not a terminal
    #[arg(short, long, requires = "attach")]
    interactive: bool,
}

/// Stop machines, and start them again
///
/// A machine that does not run is started.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina restart web
  lamina restart --timeout 60 db")]
pub(in crate::cli) struct Restart {
    #[command(flatten)]
    names: Names,
    /// How many seconds the command may take to end [default: that of `run --stop-timeout`, else 10]
    #[arg(short, long, alias = "time", value_name = "SECONDS")]
    timeout: Option<u32>,
}

impl Restart {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        super::ending::each(&self.names.get(State::is_active)?, global, |name| {
            if Machine::find(name)?.record.ephemeral {
                return Err(Failure::new(
                    format_args!("machine {name}"),
                    "it is removed when it ends, so it cannot start again",
                )
                .with_hint("run it without --rm"));
            }
            super::ending::stop(name, self.timeout, None)?;
            start(name, &signals)?;
            if !global.json {
                say!("{name}");
            }
            Ok(serde_json::json!({ "name": name, "outcome": "started" }))
        })
    }
}

impl Start {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.attach {
            let [name] = self.names.as_slice() else {
                return Err(Failure::new("--attach", "takes one machine at a time").with_status(USAGE));
            };
            return attach(name, self.interactive, global).map_err(Failure::before_the_command);
        }
        let signals = Signals::catch()?;
        let mut started = Vec::new();
        let outcome = self.names.iter().try_for_each(|name| {
            start(name, &signals)?;
            if !global.json {
                say!("{name}");
            }
            started.push(serde_json::json!({ "name": name, "outcome": "started" }));
            Ok(())
        });
        if global.json {
            print::json(&started)?;
        }
        outcome.map(|()| 0)
    }
}

fn start(name: &str, signals: &Signals) -> Result<(), Failure> {
    let directory = Directory::reopen(name)?;
    let had_a_terminal =
        Spec::read(directory.path()).is_ok_and(|spec| spec.process.terminal.is_some() && !spec.keeps_input_open);
    machine::start_detached(directory, signals)?;
    if had_a_terminal {
        tell!(
            "lamina: {name} was created at a terminal and has no input now; to attach one: lamina start --attach {name}"
        );
    }
    Ok(())
}

fn attach(name: &str, input: bool, global: &Global) -> Result<u8, Failure> {
    // Checked first, so that a running machine is told apart from a missing one.
    if Machine::find(name)?.runs() {
        return Err(Failure::new(format_args!("machine {name}"), "it is already running")
            .with_hint(format_args!("lamina exec -it {name} sh")));
    }
    let signals = Signals::catch()?;
    let directory = Directory::reopen(name)?;
    let (outcome, ends) = Outcome::of(global, input || machine::terminal_wanted());
    let at_our_terminal = |spec: &mut Spec, _: &Directory| {
        spec.process.terminal = (machine::terminal_wanted() && !global.json).then(machine::terminal_size);
        Ok(ends)
    };
    outcome.tell(name, launch::take_up(directory, at_our_terminal, ReadyPipe::none(), signals)?)
}
