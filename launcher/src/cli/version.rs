//! `lamina version`.

use serde_json::json;

use super::Global;
use super::template::{self, Format};
use crate::failure::Failure;
use crate::print;

/// Show the version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina version
  lamina version --format '{{.Client.Version}}'")]
pub(super) struct Version {
    /// Print by a template over docker's fields, such as '{{.Client.Version}}', or as json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<Format>,
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
        if !template::print_one(self.format.as_ref(), &report)? {
            say!("lamina {}", env!("CARGO_PKG_VERSION"));
        }
        Ok(0)
    }
}
