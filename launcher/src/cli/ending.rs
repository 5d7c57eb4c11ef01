//! `lamina stop`, `kill`, `wait` and `rm`: ending machines.

use std::time::Duration;

use layer_store::Store;

use super::Global;
use crate::failure::{About, Failure};
use crate::machine::{self, Machine, Signals, Stopped};
use crate::print;
use crate::spec::{Root, Spec, signal};

/// Stop machines
///
/// Sends the command its stop signal (SIGTERM, unless the image or `run --stop-signal` names another one), and SIGKILL if it
/// has not ended in time. `lamina start` starts the machine again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stop web
  lamina stop --timeout 60 db-1 db-2")]
pub(super) struct Stop {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// How many seconds the command may take to end
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u32,
}

/// End machines immediately, or send a signal to their commands
///
/// Without --signal the guest is not asked: data that it has not written back is lost, as in a power cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina kill web
  lamina kill --signal HUP web")]
pub(super) struct Kill {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Send this signal to the command instead: a name, such as HUP or RTMIN+3, or a number
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal::parse)]
    signal: Option<u32>,
}

/// Wait until machines have ended, and print the exit status of each
///
/// Prints 125 for a machine that failed before its command ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina wait build && lamina logs build")]
pub(super) struct Wait {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Remove stopped machines and everything they wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina rm build
  lamina rm --force $(lamina ps --all --quiet)")]
pub(super) struct Rm {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// End running machines first
    #[arg(short, long)]
    force: bool,
}

/// Applies `act` to each machine, and continues after a failure. Prints all failures except the last one, and returns
/// that one.
fn each(
    names: &[String],
    global: &Global,
    mut act: impl FnMut(&str) -> Result<serde_json::Value, Failure>,
) -> Result<u8, Failure> {
    let mut done = Vec::new();
    let mut failed: Option<Failure> = None;
    for name in names {
        match act(name) {
            Ok(row) => done.push(row),
            Err(failure) => {
                if let Some(earlier) = failed.replace(failure) {
                    tell!("lamina: {earlier}");
                }
            }
        }
    }
    if global.json {
        print::json(&done)?;
    }
    failed.map_or(Ok(0), Err)
}

const fn word(stopped: Stopped) -> &'static str {
    match stopped {
        Stopped::Before => "already stopped",
        Stopped::Asked => "stopped",
        Stopped::Killed => "killed",
    }
}

impl Stop {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        each(&self.names, global, |name| {
            let stopped = Machine::find(name)?.stop(Duration::from_secs(self.timeout.into()))?;
            if !global.json {
                say!("{name}: {}", word(stopped));
            }
            Ok(serde_json::json!({ "name": name, "outcome": word(stopped) }))
        })
    }
}

impl Kill {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        each(&self.names, global, |name| {
            let machine = Machine::find(name)?;
            if let Some(signal) = self.signal {
                machine.signal(signal)?;
                return Ok(serde_json::json!({ "name": name, "signal": signal }));
            }
            match machine.kill()? {
                Stopped::Before => Err(machine.not_running()),
                stopped => {
                    if !global.json {
                        say!("{name}: {}", word(stopped));
                    }
                    Ok(serde_json::json!({ "name": name, "outcome": word(stopped) }))
                }
            }
        })
    }
}

impl Wait {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        each(&self.names, global, |name| {
            let status = Machine::find(name)?.wait(&signals)?;
            if !global.json {
                say!("{status}");
            }
            Ok(serde_json::json!({ "name": name, "status": status }))
        })
    }
}

impl Rm {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        each(&self.names, global, |name| {
            let machine = Machine::find(name)?;
            let directory = machine.directory()?;
            if self.force {
                machine.kill()?;
            }
            let spec = Spec::read(&directory).ok();
            // An ephemeral machine is removed when it ends.
            if directory.exists() {
                machine::remove(name)?;
            }
            if let Some(Root::Image { store, .. }) = spec.map(|spec| spec.root) {
                Store::open(&store).and_then(|store| store.pins().remove(&directory)).about(store.display())?;
            }
            if !global.json {
                say!("{name}: removed");
            }
            Ok(serde_json::json!({ "name": name, "outcome": "removed" }))
        })
    }
}
