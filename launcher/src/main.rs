//! The program `lamina`.

use std::process::ExitCode;

fn main() -> ExitCode {
    launcher::main()
}
