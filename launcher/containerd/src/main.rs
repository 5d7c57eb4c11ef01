//! The program `lamina-containerd`, which `lamina containerd` runs: a snapshotter of containerd whose layers are in the
//! store.
//!
//! It is a program of its own because gRPC would make `lamina` larger by a sixth for users who have no containerd.
//!
//! Modules, in the order of their dependencies: `api` (containerd's messages); `busy`, `chain`, `filter`, `error`, `store`; `record`, `state`, `table` (what is
//! known about snapshots); `upper` (writes become layers), `view_server` and `views` (layers become directories), `garbage`, `heal`;
//! `snapshotter` (the calls), `service` (gRPC); `containerd` (calls to it); and the commands `serve` and `pull`.

mod api;
mod busy;
mod chain;
mod containerd;
mod error;
mod filter;
mod garbage;
mod heal;
mod mounts;
mod pull;
mod record;
mod serve;
mod service;
mod snapshotter;
mod state;
mod store;
mod sys;
mod table;
mod upper;
mod view_server;
mod views;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use composefs_fuse::LogFormat;
use layer_store::printable;
use transfer_cli::WrongOption;
use transfer_cli::hint::hint;

use crate::pull::Pull;
use crate::serve::Serve;
use crate::store::StoreOptions;
use crate::view_server::View;

/// Run containerd's containers on images of the store
#[derive(Debug, Parser)]
#[command(name = "lamina containerd", bin_name = "lamina containerd", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    store: StoreOptions,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Log what is being done (twice: in detail)
    #[arg(long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Serve),
    Pull(Box<Pull>),
    /// Write the manual pages of these commands
    #[command(hide = true)]
    Man {
        directory: PathBuf,
    },
    #[command(name = view_server::VIEW, hide = true)]
    View(View),
}

fn main() -> ExitCode {
    let cli = parse();
    log_to_stderr(cli.verbose);
    let result = match &cli.command {
        Command::Serve(serve) => serve.execute(&cli.store),
        Command::Pull(pull) => pull.execute(&cli.store, cli.json),
        Command::Man { directory } => write_pages(directory),
        Command::View(view) => view.execute(&cli.store),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let complaint = complaint(&error);
            match hint(&*error) {
                Some(hint) => tell(&format_args!("{complaint}; {hint}")),
                None => tell(&complaint),
            }
            // As after what clap refuses.
            if error.is::<WrongOption>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Returns an error and its causes on one line. Errors of the libraries say themselves what caused them.
fn complaint(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        earlier if earlier.contains(&cause) => said,
        earlier => format!("{earlier}: {cause}"),
    })
}

/// Parses the command line. The message about a wrong one quotes words of it, so it is made from words that are safe to
/// print.
fn parse() -> Cli {
    let error = match Cli::try_parse() {
        Ok(cli) => return cli,
        Err(error) => error,
    };
    let words = std::env::args_os().map(|word| printable::bytes(word.as_bytes()));
    match Cli::try_parse_from(words) {
        Err(error) => error.exit(),
        Ok(_) => {
            tell(&error.to_string().trim_end());
            std::process::exit(error.exit_code());
        }
    }
}

/// Prints a line to standard error. It may quote what a registry or containerd said.
fn tell(text: &dyn Display) {
    // There is nowhere else to report a failure.
    let _ = writeln!(io::stderr(), "{}", printable::line(&format!("lamina containerd: {text}")));
}

/// Writes the pages of `serve` and `pull`. The page about both is one of `lamina`.
fn write_pages(directory: &PathBuf) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut command = Cli::command();
    command.build();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = format!("lamina-containerd-{}", command.get_name());
        let page = clap_mangen::Man::new(command.clone().display_name(name)).source("Lamina");
        page.generate_to(directory).with_context(|| directory.display().to_string())?;
    }
    Ok(())
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // Otherwise a failed write is reported by `eprintln!`, which panics when that fails too.
        .log_internal_errors(false)
        .event_format(LogFormat { time: true })
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_named_once() {
        let cause = io::Error::other("no space");
        let error = layer_store::StoreError::Io { path: "/x".into(), cause };
        let error = anyhow::Error::from(error).context("pull");
        assert_eq!(complaint(&error), "pull: /x: no space");
    }

    #[test]
    fn the_command_line_definition_is_consistent_and_commands_show_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("lamina containerd "), "{} has no example", command.get_name());
        }
    }
}
