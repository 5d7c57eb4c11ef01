//! `lamina ps`.

use std::time::Duration;

use layer_store::printable;

use super::Global;
use crate::failure::Failure;
use crate::machine::{self, Record, State};
use crate::print;

/// List machines
///
/// A machine that was started with --detach stays in the list after its end, until `lamina rm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina ps
  lamina ps --all
  lamina ps --all --json | jq -r '.[] | select(.state == \"failed\") | .name'")]
pub(super) struct Ps {
    /// Show stopped machines too
    #[arg(short, long)]
    all: bool,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

impl Ps {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let mut records = machine::all()?;
        records.retain(|record| self.all || record.state.is_active());
        if global.json {
            print::json_pretty(&records)?;
        } else if self.quiet {
            records.iter().for_each(|record| say!("{}", record.name));
        } else {
            print_table(&records);
        }
        Ok(0)
    }
}

fn print_table(records: &[Record]) {
    let heads = ["NAME", "ENGINE", "ROOT", "STATE", "COMMAND"].map(str::to_owned);
    let rows = records.iter().map(|record| {
        let command = record.command.join(" ");
        let engine = record.engine.clone().unwrap_or_default();
        [record.name.clone(), engine, record.root.clone(), describe(&record.state), cut(&command, 40)]
            .map(|text| printable::line(&text).into_owned())
    });
    let rows: Vec<[String; 5]> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3)];
    for [name, engine, root, state, command] in &rows {
        let [a, b, c, d] = widths;
        say!("{name:a$}  {engine:b$}  {root:c$}  {state:d$}  {command}");
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Describes a machine's state for people.
pub(super) fn describe(state: &State) -> String {
    let ago = |at: u64| {
        let passed = machine::now().saturating_sub(at);
        indicatif::HumanDuration(Duration::from_secs(passed)).to_string()
    };
    match state {
        State::Starting => "starting".to_owned(),
        State::Running { since } => format!("running for {}", ago(*since)),
        State::Exited { status, at } => format!("exited ({status}) {} ago", ago(*at)),
        State::Failed { reason, at, .. } => format!("failed {} ago: {reason}", ago(*at)),
    }
}
