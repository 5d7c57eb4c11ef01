//! `lamina logs`.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use layer_store::printable;

use super::Global;
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
pub(super) struct Logs {
    /// The machine
    name: String,
    /// Keep printing until the machine ends
    #[arg(short, long)]
    follow: bool,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Show the kernel's console instead
    #[arg(long, conflicts_with_all = ["timestamps", "launcher"])]
    console: bool,
    /// Show Lamina's own messages about the machine instead
    #[arg(long, conflicts_with = "timestamps")]
    launcher: bool,
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
        let Some(entry) = LogEntry::parse(line) else { return Ok(()) };
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
