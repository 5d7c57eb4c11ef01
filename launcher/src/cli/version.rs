//! `lamina version`.

use serde_json::json;

use super::Global;
use super::template::FormatArg;
use crate::failure::Failure;
use crate::print;

/// Show the version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina version
  lamina version --format '{{.Client.Version}}'")]
pub(super) struct Version {
    #[command(flatten)]
    format: FormatArg,
}

impl Version {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let version = json!({
            "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH,
        });
        // There is no server: programs that ask for its version get that of the one program.
        let report = json!({ "Client": version, "Server": version });
        if global.json {
            return print::json(&report).map(|()| 0);
        }
        if !self.format.print_one(&report)? {
            say!("lamina {}", env!("CARGO_PKG_VERSION"));
        }
        Ok(0)
    }
}
