//! `lamina image`: docker's other names for commands that Lamina has.

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
