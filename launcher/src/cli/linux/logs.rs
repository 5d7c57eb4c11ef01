//! `lamina logs`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, Utc};

use layer_store::printable;

use crate::cli::Global;
use crate::failure::{About, Failure};
use crate::machine::{CONSOLE_LOG, FileWatch, LAUNCHER_LOG, LogEntry, LogReader, Machine, OUTPUT_LOG, Signals};

/// Show what a machine's command has written
///
/// Its standard output goes to standard output, its standard error to standard error. With --json, each line is an object
/// with time, stream, text, and whether the line is complete (whole); for --console and --launcher it has only stream and
/// text.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina logs web
  lamina logs --follow --timestamps web
  lamina logs --console web
  lamina logs --json web | jq -r 'select(.stream == \"stderr\").text'")]
pub(in crate::cli) struct Logs {
    /// The machine
    name: String,
    /// Keep printing until the machine ends
    #[arg(short, long)]
    follow: bool,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Show only the last N lines, or all
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_tail)]
    tail: Option<Tail>,
    /// Show only what was written since a time, such as 2026-01-31T12:00:00Z, or this long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with_all = ["console", "launcher"])]
    since: Option<String>,
    /// Show only what was written until then
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with_all = ["console", "launcher"])]
    until: Option<String>,
    /// Show the kernel's console instead
    #[arg(long, conflicts_with_all = ["timestamps", "launcher"])]
    console: bool,
    /// Accepted: there are no details
    #[arg(long, hide = true)]
    details: bool,
    /// Show Lamina's own messages about the machine instead
    #[arg(long, conflicts_with = "timestamps")]
    launcher: bool,
}

/// How many lines.
#[derive(Clone, Copy, Debug)]
struct Tail(usize);

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail(usize::MAX)),
        number => number.parse().map(Tail).map_err(|_| "expected a number of lines, or all".to_owned()),
    }
}

/// Reads a time as docker does: RFC 3339, a date, seconds since 1970, or how long ago. Returns it as the log has it.
fn parse_time(text: &str) -> Result<String, String> {
    let wrong = || "expected a time, as in 2026-01-31T12:00:00Z, or how long ago, as in 10m or 1h30m".to_owned();
    let now = DateTime::<Utc>::from(SystemTime::now());
    let time = if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        time.to_utc()
    } else if let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S") {
        time.and_utc()
    } else if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        date.and_time(NaiveTime::MIN).and_utc()
    } else if let Ok(seconds) = text.parse::<f64>() {
        DateTime::from_timestamp_millis(to_millis(seconds).ok_or_else(wrong)?).ok_or_else(wrong)?
    } else {
        now - TimeDelta::try_milliseconds(duration(text).ok_or_else(wrong)?).ok_or_else(wrong)?
    };
    Ok(time.to_rfc3339_opts(SecondsFormat::Nanos, true))
}

#[allow(clippy::cast_possible_truncation, reason = "the range is checked")]
fn to_millis(seconds: f64) -> Option<i64> {
    (0.0..1e12).contains(&seconds).then_some((seconds * 1000.0) as i64)
}

/// Returns the milliseconds of a duration as Go writes it, such as `1h30m`.
fn duration(text: &str) -> Option<i64> {
    let (mut rest, mut sum) = (text, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let seconds = match &after[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        sum += to_millis(number.parse::<f64>().ok()? * seconds)?;
        rest = &after[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

impl Logs {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        let machine = Machine::find(&self.name)?;
        let path = machine.directory()?.join(self.file());
        let log = match LogReader::open(&path) {
            Ok(log) => log,
            // A machine in the foreground writes to its terminal and has no log.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(Failure::new(path.display(), error)),
        };
        match self.show(log, &path, &machine, global.json, &signals) {
            // A closed pipe (`| head`) is not an error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
            other => other.map(|()| 0).about(path.display()),
        }
    }

    const fn file(&self) -> &'static str {
        match (self.console, self.launcher) {
            (true, _) => CONSOLE_LOG,
            (_, true) => LAUNCHER_LOG,
            _ => OUTPUT_LOG,
        }
    }

    fn show(
        &self,
        mut log: LogReader,
        path: &Path,
        machine: &Machine,
        json: bool,
        signals: &Signals,
    ) -> io::Result<()> {
        let growth = if self.follow { Some(FileWatch::of(path.parent().unwrap_or(path))?) } else { None };
        let mut line = Vec::new();
        if let Some(Tail(most)) = self.tail {
            for line in self.last(&mut log, most, &mut line)? {
                self.print(&line, json)?;
            }
        }
        loop {
            // Checked before the rest is read: if the machine had ended by then, this is all it wrote.
            let running = machine.runs();
            while log.read(&mut line)? {
                let whole = line.strip_suffix(b"\n");
                if let Some(line) = whole.or((line.len() >= LogReader::LONGEST).then_some(&line)) {
                    self.print(line, json)?;
                } else {
                    continue;
                }
                line.clear();
            }
            let Some(growth) = growth.as_ref().filter(|_| running && signals.check().is_ok()) else {
                // A guest's console may end in the middle of a line.
                return if line.is_empty() { Ok(()) } else { self.print(&line, json) };
            };
            growth.wait(None, Some(Duration::from_millis(200)));
        }
    }

    /// Reads to the present end of the log. Returns the last lines, and the start of one that has not ended in `rest`.
    fn last(&self, log: &mut LogReader, most: usize, rest: &mut Vec<u8>) -> io::Result<VecDeque<Vec<u8>>> {
        let is_end =
            |line: &[u8]| self.console || self.launcher || LogEntry::parse(line).is_some_and(|entry| entry.whole);
        let (mut lines, mut ends) = (VecDeque::new(), 0);
        while log.read(rest)? {
            if rest.ends_with(b"\n") {
                rest.pop();
            } else if rest.len() < LogReader::LONGEST {
                continue;
            }
            ends += usize::from(is_end(rest));
            lines.push_back(std::mem::take(rest));
            while ends > most {
                ends -= usize::from(lines.pop_front().is_some_and(|line| is_end(&line)));
            }
        }
        Ok(lines)
    }

    fn is_in_time(&self, time: &str) -> bool {
        // Both have the same form, so that they compare as text.
        self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time <= until)
    }

    /// Prints a line: what a guest wrote as it is, and our own messages, which may quote others, as text.
    #[expect(clippy::disallowed_methods, reason = "what a guest wrote stays byte-exact")]
    fn print(&self, line: &[u8], json: bool) -> io::Result<()> {
        if self.console || self.launcher {
            let mut stdout = io::stdout().lock();
            if json {
                let stream = if self.console { "console" } else { "launcher" };
                let text = String::from_utf8_lossy(line);
                let row = serde_json::json!({ "stream": stream, "text": text.trim_end_matches('\r') });
                return writeln!(stdout, "{}", printable::json(&row.to_string()));
            }
            if self.launcher {
                return writeln!(stdout, "{}", printable::bytes(line));
            }
            stdout.write_all(line)?;
            return stdout.write_all(b"\n");
        }
        let Some(entry) = LogEntry::parse(line).filter(|entry| self.is_in_time(entry.time)) else { return Ok(()) };
        if json {
            let text = String::from_utf8_lossy(entry.bytes);
            let stream = if entry.error { "stderr" } else { "stdout" };
            let row = serde_json::json!({ "time": entry.time, "stream": stream, "text": text, "whole": entry.whole });
            return writeln!(io::stdout(), "{}", printable::json(&row.to_string()));
        }
        let mut to: Box<dyn Write> = if entry.error { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
        if self.timestamps {
            write!(to, "{} ", entry.time)?;
        }
        entry.write(&mut to)?;
        to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000000Z"),
            ("2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00.000000000Z"),
            ("2026-01-31T12:00:00", "2026-01-31T12:00:00.000000000Z"),
            ("2026-01-31", "2026-01-31T00:00:00.000000000Z"),
            ("0.5", "1970-01-01T00:00:00.500000000Z"),
        ] {
            assert_eq!(parse_time(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(
            (duration("1h30m"), duration("1.5s"), duration("2d")),
            (Some(5_400_000), Some(1500), Some(172_800_000))
        );
        assert!(parse_time("10m").unwrap() < parse_time("5m").unwrap());
        for wrong in ["", "m", "10", "10x", "-5m"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
