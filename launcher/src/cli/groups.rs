//! `lamina image`, `container` and `system`: docker's other names for commands that Lamina has.

use clap::Subcommand;

use super::*;

/// Commands on images, by docker's names
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  lamina image ls
  lamina image prune --all --force")]
pub(super) enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(images::Images),
    #[command(visible_alias = "remove")]
    Rm(rmi::Rmi),
    Inspect(inspect::Inspect),
    Pull(pull::Pull),
    Push(push::Push),
    Tag(tag::Tag),
    History(history::History),
    Import(import::Import),
    Export(export::Export),
    Save(archive::Save),
    Load(archive::Load),
    Mount(mount::Mount),
    #[command(visible_alias = "unmount")]
    Umount(umount::Umount),
    Prune(prune::ImagePrune),
    Exists(exists::ImageExists),
}

/// Commands on machines, by docker's names
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  lamina container ls --all
  lamina container prune --force")]
pub(super) enum ContainerCommand {
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
pub(super) enum SystemCommand {
    Df(system_df::SystemDf),
    Prune(prune::SystemPrune),
}

impl From<ImageCommand> for Command {
    fn from(command: ImageCommand) -> Self {
        match command {
            ImageCommand::Ls(images) => Self::Images(images),
            ImageCommand::Rm(rmi) => Self::Rmi(rmi),
            ImageCommand::Inspect(inspect) => Self::Inspect(inspect.of(inspect::Kind::Image)),
            ImageCommand::Pull(pull) => Self::Pull(pull),
            ImageCommand::Push(push) => Self::Push(push),
            ImageCommand::Tag(tag) => Self::Tag(tag),
            ImageCommand::History(history) => Self::History(history),
            ImageCommand::Import(import) => Self::Import(import),
            ImageCommand::Export(export) => Self::Export(export),
            ImageCommand::Save(save) => Self::Save(save),
            ImageCommand::Load(load) => Self::Load(load),
            ImageCommand::Mount(mount) => Self::Mount(mount),
            ImageCommand::Umount(umount) => Self::Umount(umount),
            ImageCommand::Prune(prune) => Self::ImagePrune(prune),
            ImageCommand::Exists(exists) => Self::ImageExists(exists),
        }
    }
}

impl From<ContainerCommand> for Command {
    fn from(command: ContainerCommand) -> Self {
        match command {
            ContainerCommand::Ls(ps) => Self::Ps(ps),
            ContainerCommand::Rm(rm) => Self::Rm(rm),
            ContainerCommand::Inspect(inspect) => Self::Inspect(inspect.of(inspect::Kind::Machine)),
            ContainerCommand::Run(run) => Self::Run(run),
            ContainerCommand::Create(create) => Self::Create(create),
            ContainerCommand::Attach(attach) => Self::Attach(attach),
            ContainerCommand::Exec(exec) => Self::Exec(exec),
            ContainerCommand::Start(start) => Self::Start(start),
            ContainerCommand::Restart(restart) => Self::Restart(restart),
            ContainerCommand::Stop(stop) => Self::Stop(stop),
            ContainerCommand::Kill(kill) => Self::Kill(kill),
            ContainerCommand::Wait(wait) => Self::Wait(wait),
            ContainerCommand::Logs(logs) => Self::Logs(logs),
            ContainerCommand::Cp(cp) => Self::Cp(cp),
            ContainerCommand::Diff(diff) => Self::Diff(diff),
            ContainerCommand::Commit(commit) => Self::Commit(commit),
            ContainerCommand::Export(export) => Self::Export(export),
            ContainerCommand::Rename(rename) => Self::Rename(rename),
            ContainerCommand::Port(port) => Self::Port(port),
            ContainerCommand::Top(top) => Self::Top(top),
            ContainerCommand::Stats(stats) => Self::Stats(stats),
            ContainerCommand::Prune(prune) => Self::ContainerPrune(prune),
            ContainerCommand::Exists(exists) => Self::MachineExists(exists),
        }
    }
}

impl From<SystemCommand> for Command {
    fn from(command: SystemCommand) -> Self {
        match command {
            SystemCommand::Df(df) => Self::SystemDf(df),
            SystemCommand::Prune(prune) => Self::SystemPrune(prune),
        }
    }
}
