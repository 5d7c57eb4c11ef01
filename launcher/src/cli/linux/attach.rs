//! `lamina attach`.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cli::Global;
use crate::failure::{About, Failure};
use crate::machine::{FileWatch, LogEntry, LogReader, Machine, OUTPUT_LOG, Signals};
use crate::raw_terminal::RawTerminal;
use crate::spec::Spec;

/// Ctrl-P and Ctrl-Q, which leave a terminal as in docker.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Attach this terminal to the command of a running machine
///
/// Shows what the command writes from now on; `lamina logs` has what it wrote before. Input is passed on if the machine was
/// started with `run --detach --interactive`. Ctrl-C and other signals go to the command; Ctrl-P Ctrl-Q at a terminal ends
/// `lamina attach` only. The exit status is the command's.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina run -dit --name box debian:12 bash
  lamina attach box")]
pub(in crate::cli) struct Attach {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
    /// Pass no input on
    #[arg(long)]
    no_stdin: bool,
    /// Accepted: signals are passed on
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    sig_proxy: Option<Option<bool>>,
}

impl Attach {
    pub(super) fn execute(&self, _: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        let _attended = signals.attend();
        let machine = Machine::find(&self.name)?;
        if !machine.runs() {
            return Err(machine.not_running());
        }
        let directory = machine.directory()?;
        let end = machine.watch_end()?;
        let path = directory.join(OUTPUT_LOG);
        let mut log = LogReader::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Failure::new(format_args!("machine {}", self.name), "it runs at another terminal")
            }
            _ => Failure::new(path.display(), error),
        })?;
        // What was written before is for `lamina logs`.
        let mut line = Vec::new();
        while log.read(&mut line).about(path.display())? {
            line.clear();
        }
        let spec = Spec::read(&directory).ok();
        let takes_input = spec.as_ref().is_some_and(|spec| spec.keeps_input_open) && !self.no_stdin;
        let has_terminal = spec.is_some_and(|spec| spec.process.terminal.is_some()) && io::stdin().is_terminal();
        let left = Arc::new(AtomicBool::new(false));
        let raw = (takes_input && has_terminal).then(RawTerminal::enter).and_then(Result::ok);
        if takes_input {
            let (to, left) = (machine.input()?, Arc::clone(&left));
            // Not joined, because a read from a terminal cannot be cancelled.
            thread::spawn(move || pass_on(to, &left, has_terminal));
        }
        let shown = follow(&machine, log, &FileWatch::of(&directory).about(path.display())?, &signals, &left);
        drop(raw);
        match shown {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(path.display(), error)),
            _ if left.load(Ordering::Relaxed) => Ok(0),
            _ => machine.wait_for(&end, &signals, None),
        }
    }
}

/// Prints what the command writes until the machine has ended, or the terminal is left.
fn follow(
    machine: &Machine,
    mut log: LogReader,
    growth: &FileWatch,
    signals: &Signals,
    left: &AtomicBool,
) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        // Checked before the rest is read: if the machine had ended by then, this is all it wrote.
        let running = machine.runs();
        while log.read(&mut line)? {
            if line.ends_with(b"\n") {
                show(&line[..line.len() - 1])?;
                line.clear();
            }
        }
        if !running || left.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(signal) = signals.next_to_pass_on() {
            // It may have ended in the meantime.
            let _ = machine.signal(signal);
        }
        growth.wait(None, Some(Duration::from_millis(100)));
    }
}

#[expect(clippy::disallowed_methods, reason = "what a guest wrote stays byte-exact")]
fn show(line: &[u8]) -> io::Result<()> {
    let Some(entry) = LogEntry::parse(line) else { return Ok(()) };
    let mut to: Box<dyn Write> = if entry.error { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    entry.write(&mut to)?;
    to.flush()
}

fn pass_on(mut to: impl Write, left: &AtomicBool, terminal: bool) {
    let (mut buffer, mut before) = ([0; 4096], 0);
    while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
        let bytes = &buffer[..count];
        let detaches = [before].iter().chain(bytes).zip(bytes).any(|(&first, &second)| [first, second] == DETACH);
        if terminal && detaches {
            left.store(true, Ordering::Relaxed);
            return;
        }
        before = bytes[count - 1];
        if to.write_all(bytes).is_err() {
            return;
        }
    }
}
