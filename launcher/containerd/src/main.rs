//! The program `lamina-containerd`, which `lamina containerd` runs: a snapshotter of containerd whose layers are in the
//! store.
//!
//! It is a program of its own because gRPC would make `lamina` larger by a sixth for users who have no containerd.
//!
//! Modules, in the order of their dependencies: `chain`, `filter`, `error`, `store`; `record`, `state`, `table` (what is
//! known about snapshots); `upper` (writes become layers), `view_server` and `views` (layers become directories), `heal`;
//! `snapshotter` (the calls), `service` (gRPC); `containerd` (calls to it); and the commands `serve` and `pull`.

mod chain;
mod containerd;
mod error;
mod filter;
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

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use composefs_fuse::LogFormat;
use layer_store::printable;

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
    Pull(Pull),
    #[command(name = view_server::VIEW, hide = true)]
    View(View),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    let result = match &cli.command {
        Command::Serve(serve) => serve.execute(&cli.store),
        Command::Pull(pull) => pull.execute(&cli.store, cli.json),
        Command::View(view) => view.execute(&cli.store),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("lamina containerd: {error:#}");
            // There is nowhere else to report a failure.
            let _ = writeln!(io::stderr(), "{}", printable::lines(&printable::line(&line)));
            ExitCode::FAILURE
        }
    }
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent_and_commands_show_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("lamina containerd "), "{} has no example", command.get_name());
        }
    }
}
