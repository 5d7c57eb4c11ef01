//! Reports how a command in a machine ended and, for `--json`, what it wrote.

use std::io;

use guest_protocol::Ending;

use crate::cli::Global;
use crate::failure::{About, Failure, USAGE};
use crate::machine::{Captured, Stdio, WriteFailure};
use crate::print;

/// Where a command's output goes.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Straight to this process's output.
    Passed(WriteFailure),
    /// With `--json`, into one object when the command has ended.
    Captured(Captured),
}

impl Outcome {
    /// Returns the outcome to fill in, and the standard streams for the command.
    pub(super) fn of(global: &Global, input: bool) -> (Self, Stdio) {
        if !global.json {
            let lost = WriteFailure::default();
            return (Self::Passed(lost.clone()), Stdio::own(input, lost));
        }
        let captured = Captured::default();
        let output = captured.clone();
        let ends = if input { Stdio::new(io::stdin(), output) } else { Stdio::output(output) };
        (Self::Captured(captured), ends)
    }

    /// Reports how the command in the machine called `name` ended and returns its exit status.
    ///
    /// # Errors
    /// The command succeeded, but its output could not be written here.
    pub(super) fn tell(self, name: &str, ending: Ending) -> Result<u8, Failure> {
        let status = ending.shell_status();
        match self {
            Self::Passed(lost) => match lost.check() {
                Err(failure) if status == 0 => return Err(failure),
                Err(failure) => tell!("lamina: {failure}"),
                Ok(()) => {}
            },
            Self::Captured(captured) => report(captured, name, ending)?,
        }
        Ok(status)
    }
}

fn report(captured: Captured, name: &str, ending: Ending) -> Result<(), Failure> {
    let signal = match ending {
        Ending::Signal(number) => Some(number),
        Ending::Status(_) => None,
    };
    let row = serde_json::json!({ "name": name, "status": ending.shell_status(), "signal": signal });
    let texts = [("stdout", captured.stdout), ("stderr", captured.stderr)];
    let texts = texts.into_iter().map(|(key, kept)| Ok((key, kept.read().about("temporary file")?)));
    print::json_with_texts(&row, texts.collect::<Result<_, Failure>>()?)
}

/// Refuses `--json` where standard output has another use.
pub(super) fn refuse_json(global: &Global, instead: &str) -> Result<(), Failure> {
    if global.json {
        let cause = format!("standard output carries {instead} here");
        return Err(Failure::new("--json", cause).with_status(USAGE));
    }
    Ok(())
}
