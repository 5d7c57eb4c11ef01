//! `lamina container` and `system`: docker's other names for commands that Lamina has.

use clap::Subcommand;

use super::*;
use crate::cli::{self, export, inspect};

/// Commands on machines, by docker's names
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  lamina container ls --all
  lamina container prune --force")]
pub(in crate::cli) enum ContainerCommand {
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Ps),
    #[command(visible_alias = "remove")]
    Rm(ending::Rm),
    Inspect(inspect::Inspect),
    Run(Box<run::Run>),
    Create(Box<run::Create>),
    Attach(attach::Attach),
    Exec(exec::Exec),
    Start(start::Start),
    Restart(start::Restart),
    Stop(ending::Stop),
    Kill(ending::Kill),
    Wait(ending::Wait),
    Logs(logs::Logs),
    Cp(cp::Cp),
    Diff(diff::Diff),
    Commit(commit::Commit),
    Export(export::Export),
    Rename(rename::Rename),
    Port(port::Port),
    Top(top::Top),
    Stats(stats::Stats),
    Prune(prune::ContainerPrune),
    Exists(exists::MachineExists),
}

/// Commands on the store and all machines, by docker's names
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  lamina system df
  lamina system prune --force")]
pub(in crate::cli) enum SystemCommand {
    Df(system_df::SystemDf),
    Prune(prune::SystemPrune),
}

impl From<ContainerCommand> for cli::Command {
    fn from(command: ContainerCommand) -> Self {
        match command {
            ContainerCommand::Ls(ps) => Command::Ps(ps).into(),
            ContainerCommand::Rm(rm) => Command::Rm(rm).into(),
            ContainerCommand::Inspect(inspect) => Self::Inspect(inspect.of(inspect::Kind::Machine)),
            ContainerCommand::Run(run) => Command::Run(run).into(),
            ContainerCommand::Create(create) => Command::Create(create).into(),
            ContainerCommand::Attach(attach) => Command::Attach(attach).into(),
            ContainerCommand::Exec(exec) => Command::Exec(exec).into(),
            ContainerCommand::Start(start) => Command::Start(start).into(),
            ContainerCommand::Restart(restart) => Command::Restart(restart).into(),
            ContainerCommand::Stop(stop) => Command::Stop(stop).into(),
            ContainerCommand::Kill(kill) => Command::Kill(kill).into(),
            ContainerCommand::Wait(wait) => Command::Wait(wait).into(),
            ContainerCommand::Logs(logs) => Command::Logs(logs).into(),
            ContainerCommand::Cp(cp) => Command::Cp(cp).into(),
            ContainerCommand::Diff(diff) => Command::Diff(diff).into(),
            ContainerCommand::Commit(commit) => Command::Commit(commit).into(),
            ContainerCommand::Export(export) => Self::Export(export),
            ContainerCommand::Rename(rename) => Command::Rename(rename).into(),
            ContainerCommand::Port(port) => Command::Port(port).into(),
            ContainerCommand::Top(top) => Command::Top(top).into(),
            ContainerCommand::Stats(stats) => Command::Stats(stats).into(),
            ContainerCommand::Prune(prune) => Command::ContainerPrune(prune).into(),
            ContainerCommand::Exists(exists) => Command::MachineExists(exists).into(),
        }
    }
}

impl From<SystemCommand> for cli::Command {
    fn from(command: SystemCommand) -> Self {
        match command {
            SystemCommand::Df(df) => Command::SystemDf(df).into(),
            SystemCommand::Prune(prune) => Command::SystemPrune(prune).into(),
        }
    }
}

impl From<Command> for cli::Command {
    fn from(command: Command) -> Self {
        Self::OfSystem(command)
    }
}
