//! How a command in a machine ended and, for `--json`, what it wrote.

use std::io;

use guest_init::protocol::Ending;

use super::Global;
use crate::failure::{Failure, USAGE};
use crate::machine::{Captured, Ends};

/// Where a command's output goes: to ours as it comes, or with `--json` into one object once the command has ended.
#[derive(Debug)]
pub(super) struct Outcome(Option<Captured>);

impl Outcome {
    /// The place for the outcome, and the ends to give the command.
    pub(super) fn of(global: &Global, input: bool) -> (Self, Ends) {
        if !global.json {
            return (Self(None), Ends::own(input));
        }
        let captured = Captured::default();
        let output = captured.clone();
        let ends = if input { Ends::new(io::stdin(), output) } else { Ends::output(output) };
        (Self(Some(captured)), ends)
    }

    /// Tells how the command in the machine called `name` ended; gives its exit status.
    pub(super) fn tell(self, name: &str, ending: Ending) -> u8 {
        let status = ending.shell_status();
        if let Self(Some(captured)) = self {
            let signal = match ending {
                Ending::Signal(number) => Some(number),
                Ending::Status(_) => None,
            };
            let [stdout, stderr] = [captured.stdout, captured.stderr].map(|kept| kept.take());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (stdout, stderr) = (text(&stdout), text(&stderr));
            let row = serde_json::json!({
                "name": name, "status": status, "signal": signal, "stdout": stdout, "stderr": stderr,
            });
            say!("{row}");
        }
        status
    }
}

/// Refuses `--json` where standard output is for something else.
pub(super) fn refuse_json(global: &Global, instead: &str) -> Result<(), Failure> {
    if global.json {
        let cause = format!("standard output is for {instead} here");
        return Err(Failure::new("--json", cause).with_status(USAGE));
    }
    Ok(())
}
