//! `lamina ps`.

use layer_store::printable;

use crate::cli::Global;
use crate::cli::filter::{self, Filter};
use crate::cli::machines::{describe, row};
use crate::cli::rows::{cut, name_parts};
use crate::cli::template::FormatArg;
use crate::failure::Failure;
use crate::machine::{self, Record};
use crate::print;
use crate::spec::Spec;

/// List machines
///
/// A machine that was started with --detach stays in the list after its end, until `lamina rm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina ps
  lamina ps --all
  lamina ps --filter label=team=a --format 'table {{.Names}}\t{{.Status}}'
  lamina ps --all --json | jq -r '.[] | select(.state == \"failed\") | .name'")]
pub(in crate::cli) struct Ps {
    /// Show stopped machines too
    #[arg(short, long)]
    all: bool,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
    /// Show the machine that was created last
    #[arg(short, long)]
    latest: bool,
    /// Show the N machines that were created last
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Show machines that fit: name=TEXT, status=created|running|exited|dead, label=NAME[=VALUE], ancestor=IMAGE,
    /// exited=STATUS, volume=NAME|PATH, publish=PORT, network=bridge|none, before=NAME, since=NAME
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[command(flatten)]
    format: FormatArg,
    /// Do not shorten commands
    #[arg(long)]
    no_trunc: bool,
}

/// The keys of filters.
const KEYS: [&str; 12] = [
    "name", "id", "status", "label", "ancestor", "exited", "volume", "publish", "expose", "network", "before", "since",
];

impl Ps {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        filter::check(&self.filter, &KEYS)?;
        let mut records = machine::all()?;
        let last = self.last.or(self.latest.then_some(1));
        let ended = self.all
            || last.is_some()
            || self.filter.iter().any(|filter| ["status", "exited", "before", "since"].contains(&&*filter.key));
        records.retain(|record| (ended || record.state.is_active()) && self.fits(record));
        if let Some(last) = last {
            records.sort_by_key(|record| std::cmp::Reverse(record.created));
            records.truncate(last);
        }
        if global.json {
            print::json_pretty(&records)?;
        } else if self.format.print(records.iter().map(|record| row(record, spec(record).as_ref())))? {
            return Ok(0);
        } else if self.quiet {
            records.iter().for_each(|record| say!("{}", record.name));
        } else {
            print_table(&records, if self.no_trunc { usize::MAX } else { 40 });
        }
        Ok(0)
    }

    fn fits(&self, record: &Record) -> bool {
        let row = row(record, spec(record).as_ref());
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        filter::fits(&self.filter, |Filter { key, value }| match key.as_str() {
            "name" | "id" => is_named(value, &record.name),
            "status" => text("State") == if value == "stopped" { "exited" } else { value },
            "publish" | "expose" => record.published.iter().any(|port| {
                let (number, kind) = value.split_once('/').unwrap_or((value, "tcp"));
                [port.guest, port.host].iter().any(|own| own.to_string() == number) && (kind == "udp") == port.udp
            }),
            "network" => text("Networks") == *value,
            "before" | "since" => machine::all().is_ok_and(|all| {
                let other = all.iter().find(|other| other.name == *value).map(|other| other.created);
                other.is_some_and(|other| if key == "since" { record.created > other } else { record.created < other })
            }),
            "label" => filter::has_label(&record.labels, value),
            "ancestor" => {
                let (repository, tag, _) = name_parts(&record.root);
                [record.root.clone(), format!("{repository}:{tag}"), repository].contains(value)
            }
            "exited" => record.state.status().is_some_and(|status| status.to_string() == *value),
            _ => text("Mounts").split(',').any(|mount| mount == value || mount.ends_with(&format!("/{value}/data"))),
        })
    }
}

fn spec(record: &Record) -> Option<Spec> {
    Spec::read(&machine::directory_of(&record.name).ok()?).ok()
}

fn print_table(records: &[Record], most: usize) {
    let heads = ["NAME", "ENGINE", "ROOT", "STATE", "COMMAND"].map(str::to_owned);
    let rows = records.iter().map(|record| {
        let command = record.command.join(" ");
        let engine = record.engine.clone().unwrap_or_default();
        [record.name.clone(), engine, record.root.clone(), describe(&record.state), cut(&command, most)]
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

/// Returns whether a machine has a name with this text in it. As in docker, `^` stands for its beginning and `$` for its end.
fn is_named(wanted: &str, name: &str) -> bool {
    let (begins, wanted) = wanted.strip_prefix('^').map_or((false, wanted), |rest| (true, rest));
    let (ends, wanted) = wanted.strip_suffix('$').map_or((false, wanted), |rest| (true, rest));
    // docker's names begin with a slash.
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    match (begins, ends) {
        (true, true) => name == wanted,
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (false, false) => name.contains(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_parts_and_by_their_ends() {
        for (wanted, fits) in
            [("eb", true), ("^web", true), ("^/web-1$", true), ("^eb", false), ("-1$", true), ("web$", false)]
        {
            assert_eq!(is_named(wanted, "web-1"), fits, "{wanted}");
        }
    }
}
