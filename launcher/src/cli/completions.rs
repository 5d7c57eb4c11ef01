//! `lamina completions` and `lamina man`: generated from the definitions of the commands.

use std::path::PathBuf;

use clap_complete::Shell;

use crate::failure::{About, Failure};
use crate::print;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(lamina completions bash)
  lamina completions zsh > ~/.zfunc/_lamina
  lamina completions fish > ~/.config/fish/completions/lamina.fish")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut super::definition(), "lamina", &mut text);
        print::result_lines(&String::from_utf8_lossy(&text))?;
        Ok(0)
    }
}

/// Write the manual pages of the commands, one for each
///
/// `lamina help TOPIC` shows the pages about topics.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo lamina man /usr/local/share/man/man1
  lamina man ./man && man ./man/lamina-pull.1")]
pub(super) struct Man {
    /// The directory to write them to, created if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        std::fs::create_dir_all(&self.directory).about(self.directory.display())?;
        clap_mangen::generate_to(super::definition(), &self.directory).about(self.directory.display())?;
        Ok(0)
    }
}
