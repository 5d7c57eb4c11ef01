//! `lamina stop`, `kill`, `wait` and `rm`: ending machines.

use std::time::{Duration, Instant};

use layer_store::Store;

use crate::cli::Global;
use crate::failure::{About, Failure};
use crate::machine::{self, Machine, Signals, State, Stopped};
use crate::print;
use crate::spec::{Root, Spec, signal};

/// The machines that a command is about.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Names {
    /// The machines
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// All machines
    #[arg(short, long, conflicts_with = "names")]
    all: bool,
}

impl Names {
    /// Returns the names, or those of all machines that fit.
    pub(super) fn get(&self, fits: impl Fn(&State) -> bool) -> Result<Vec<String>, Failure> {
        if !self.all {
            return Ok(self.names.clone());
        }
        Ok(machine::all()?.into_iter().filter(|record| fits(&record.state)).map(|record| record.name).collect())
    }
}

/// Stop machines
///
/// Sends the command its stop signal (SIGTERM, unless the image or `run --stop-signal` names another one), and SIGKILL if it
/// has not ended in time. `lamina start` starts the machine again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina stop web
  lamina stop --timeout 60 db-1 db-2")]
pub(in crate::cli) struct Stop {
    #[command(flatten)]
    names: Names,
    /// How many seconds the command may take to end [default: that of `run --stop-timeout`, else 10]
    #[arg(short, long, alias = "time", value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Send this signal instead of the stop signal
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal::parse)]
    signal: Option<u32>,
}

/// End machines immediately, or send a signal to their commands
///
/// Without --signal the guest is not asked: data that it has not written back is lost, as in a power cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina kill web
  lamina kill --signal HUP web")]
pub(in crate::cli) struct Kill {
    #[command(flatten)]
    names: Names,
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
pub(in crate::cli) struct Wait {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Give up after this many seconds
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

/// Remove stopped machines and everything they wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina rm build
  lamina rm --all --force")]
pub(in crate::cli) struct Rm {
    #[command(flatten)]
    names: Names,
    /// End running machines first, and do not fail for a machine that does not exist
    #[arg(short, long)]
    force: bool,
    /// Accepted: named volumes stay, and all others are part of the machine
    #[arg(short, long, hide = true)]
    volumes: bool,
}

/// Applies `act` to each machine, and continues after a failure. Prints all failures except the last one, and returns
/// that one.
pub(super) fn each(
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
        each(&self.names.get(State::is_active)?, global, |name| {
            let stopped = stop(name, self.timeout, self.signal)?;
            if !global.json {
                say!("{name}: {}", word(stopped));
            }
            Ok(serde_json::json!({ "name": name, "outcome": word(stopped) }))
        })
    }
}

/// Stops a machine within this time, or its own, with this signal, or its own.
pub(super) fn stop(name: &str, seconds: Option<u32>, signal: Option<u32>) -> Result<Stopped, Failure> {
    let machine = Machine::find(name)?;
    let own = || Spec::read(&machine.directory().ok()?).ok()?.stop_timeout;
    let timeout = Duration::from_secs(seconds.or_else(own).unwrap_or(10).into());
    match signal.filter(|_| machine.runs()) {
        Some(signal) => machine.stop_by(signal, timeout),
        None => machine.stop(timeout),
    }
}

impl Kill {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        each(&self.names.get(State::is_active)?, global, |name| {
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
        let limit = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        each(&self.names, global, |name| {
            let status = Machine::find(name)?.wait(&signals, limit)?;
            if !global.json {
                say!("{status}");
            }
            Ok(serde_json::json!({ "name": name, "status": status }))
        })
    }
}

impl Rm {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        remove(&self.names.get(|state| self.force || !state.is_active())?, self.force, global)
    }
}

/// Removes machines; `force` ends those that run first.
pub(super) fn remove(names: &[String], force: bool, global: &Global) -> Result<u8, Failure> {
    each(names, global, |name| {
        if !remove_one(name, force)? {
            return Ok(serde_json::json!({ "name": name, "outcome": "not there" }));
        }
        if !global.json {
            say!("{name}: removed");
        }
        Ok(serde_json::json!({ "name": name, "outcome": "removed" }))
    })
}

/// Removes a machine. Returns `false` if it does not exist, which is an error without `force`.
pub(super) fn remove_one(name: &str, force: bool) -> Result<bool, Failure> {
    let machine = match Machine::find(name) {
        Err(_) if force && !machine::exists(name)? => return Ok(false),
        found => found?,
    };
    let directory = machine.directory()?;
    if force {
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
    Ok(true)
}
