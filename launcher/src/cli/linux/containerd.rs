//! `lamina containerd`: another program, which has what only users of containerd need.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::cli::Global;
use crate::failure::Failure;

/// The program.
const PROGRAM: &str = "lamina-containerd";

/// Run containerd's containers on images of the store
///
/// `serve` is a snapshotter for containerd, and `pull` gives it an image of which nothing needs to be unpacked. Both are in the
/// program lamina-containerd: `lamina containerd --help` shows its options, and `lamina help snapshotter` how to set it up.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  lamina containerd serve
  lamina containerd pull debian:12
  ctr run --snapshotter lamina --rm docker.io/library/debian:12 test ls /"
)]
pub(in crate::cli) struct Containerd {
    /// A command of lamina-containerd and its options
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Containerd {
    /// Becomes the other program.
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let mut command = Command::new(program());
        if let Some(store) = &global.store {
            command.arg("--store").arg(store);
        }
        for store in &global.additional_stores {
            command.arg("--additional-store").arg(store);
        }
        command.args(global.json.then_some("--json"));
        command.args((0..global.verbose).map(|_| "--verbose"));
        let error = command.args(&self.words).exec();
        Err(Failure::new(PROGRAM, error)
            .with_hint("it is a program of its own: install it next to lamina, or in a directory of $PATH"))
    }
}

/// Returns the program next to this one if it is there, and otherwise its name, to be looked for in `$PATH`.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}
