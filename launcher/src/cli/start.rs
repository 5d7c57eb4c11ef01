//! `lamina start`.

use super::Global;
use super::outcome::Outcome;
use crate::failure::{Failure, USAGE};
use crate::machine::launch;
use crate::machine::{self, Directory, Machine, ReadyPipe, Signals};
use crate::spec::Spec;

/// Start machines again that have ended
///
/// They run the command that they were made with, on a tree without what they wrote unless they were made with --keep. In
/// the background, or with --attach at this terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stop db && lamina start db
  lamina run --keep --name dev debian:12 -- bash
  lamina start --attach dev")]
pub(super) struct Start {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Pass standard input, output and error on, as `lamina run` does, and end with the command's exit status
    #[arg(short, long)]
    attach: bool,
}

impl Start {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.attach {
            let [name] = self.names.as_slice() else {
                return Err(Failure::new("--attach", "takes one machine at a time").with_status(USAGE));
            };
            return attach(name, global).map_err(Failure::before_the_command);
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
            say!("{}", serde_json::Value::from(started));
        }
        outcome.map(|()| 0)
    }
}

fn start(name: &str, signals: &Signals) -> Result<(), Failure> {
    let directory = Directory::reopen(name)?;
    let had_a_terminal = Spec::read(directory.path()).is_ok_and(|spec| spec.process.terminal.is_some());
    machine::start_detached(directory, signals)?;
    if had_a_terminal {
        tell!("lamina: {name} was made at a terminal and has no input now; with it: lamina start --attach {name}");
    }
    Ok(())
}

fn attach(name: &str, global: &Global) -> Result<u8, Failure> {
    // The machine is looked at before it is taken over, so that one that runs is told from one that is not there.
    if Machine::find(name)?.runs() {
        return Err(Failure::new(format_args!("machine {name}"), "it is already running")
            .with_hint(format_args!("lamina exec -it {name} -- sh")));
    }
    let signals = Signals::catch()?;
    let directory = Directory::reopen(name)?;
    let (outcome, ends) = Outcome::of(global, true);
    let at_our_terminal = |spec: &mut Spec, _: &Directory| {
        spec.process.terminal = (machine::terminal_wanted() && !global.json).then(machine::terminal_size);
        Ok(ends)
    };
    outcome.tell(name, launch::take_up(directory, at_our_terminal, ReadyPipe::none(), signals)?)
}
