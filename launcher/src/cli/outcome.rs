//! How a command in a machine ended and, for `--json`, what it wrote.

use std::io;

use guest_protocol::Ending;

use super::Global;
use crate::failure::{Failure, USAGE};
use crate::machine::{Captured, Stdio, WriteFailure};

/// Where a command's output goes.
#[derive(Debug)]
pub(super) enum Outcome {
    /// To ours as it comes.
    Passed(WriteFailure),
    /// With `--json`, into one object once the command has ended.
    Captured(Captured),
}

impl Outcome {
    /// The place for the outcome, and the ends to give the command.
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

    /// Tells how the command in the machine called `name` ended; gives its exit status.
    ///
    /// # Errors
    /// It succeeded, and what it wrote could not be written here.
    pub(super) fn tell(self, name: &str, ending: Ending) -> Result<u8, Failure> {
        let status = ending.shell_status();
        match self {
            Self::Passed(lost) => match lost.check() {
                Err(failure) if status == 0 => return Err(failure),
                Err(failure) => tell!("lamina: {failure}"),
                Ok(()) => {}
            },
            Self::Captured(captured) => print(captured, name, ending),
        }
        Ok(status)
    }
}

fn print(captured: Captured, name: &str, ending: Ending) {
    let signal = match ending {
        Ending::Signal(number) => Some(number),
        Ending::Status(_) => None,
    };
    let [stdout, stderr] =
        [captured.stdout, captured.stderr].map(|kept| String::from_utf8_lossy(&kept.take()).into_owned());
    let row = serde_json::json!({
        "name": name, "status": ending.shell_status(), "signal": signal, "stdout": stdout, "stderr": stderr,
    });
    say!("{row}");
}

/// Refuses `--json` where standard output is for something else.
pub(super) fn refuse_json(global: &Global, instead: &str) -> Result<(), Failure> {
    if global.json {
        let cause = format!("standard output is for {instead} here");
        return Err(Failure::new("--json", cause).with_status(USAGE));
    }
    Ok(())
}
