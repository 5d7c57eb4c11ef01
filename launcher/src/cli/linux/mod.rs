//! The commands that need Linux: those on machines and for engines, and the forms that other commands have there.

pub(super) mod accepted;
mod attach;
mod commit;
mod config;
mod containerd;
mod cp;
mod diff;
pub(super) mod doctor;
mod ending;
mod exec;
mod exists;
mod groups;
mod guest_options;
mod logs;
mod materialize;
mod missing;
mod mounts;
mod outcome;
mod podman;
mod port;
mod ports;
mod prune;
mod ps;
mod rename;
mod run;
mod shell;
mod start;
mod stats;
mod system_df;
mod top;
pub(super) mod umount;
mod usage;
mod values;
mod volume;

use std::ffi::OsString;

use clap::Subcommand;

use super::{Global, log_to_stderr};
use crate::engine;
use crate::failure::Failure;
use crate::host::{child, confine, file_share, share};
use crate::machine::{self, launch};

/// The commands that only Linux has.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    // In the help, beside `build-image`, which has this number (options count too).
    #[command(display_order = 22)]
    Materialize(materialize::Materialize),
    Stats(stats::Stats),
    Run(Box<run::Run>),
    Create(Box<run::Create>),
    Attach(attach::Attach),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Shell(Box<shell::Shell>),
    Top(top::Top),
    Port(port::Port),
    Cp(cp::Cp),
    Diff(diff::Diff),
    Commit(commit::Commit),
    Stop(ending::Stop),
    Kill(ending::Kill),
    Start(start::Start),
    Restart(start::Restart),
    Rename(rename::Rename),
    Wait(ending::Wait),
    Rm(ending::Rm),
    #[command(subcommand)]
    Volume(volume::Volumes),
    Containerd(containerd::Containerd),
    Podman(podman::Podman),
    // In the help, docker's groups are below all other commands.
    #[command(subcommand, display_order = 1000)]
    Container(groups::ContainerCommand),
    #[command(subcommand, display_order = 1001)]
    System(groups::SystemCommand),
    #[command(skip)]
    MachineExists(exists::MachineExists),
    #[command(skip)]
    ContainerPrune(prune::ContainerPrune),
    #[command(skip)]
    SystemPrune(prune::SystemPrune),
    #[command(skip)]
    SystemDf(system_df::SystemDf),
}

impl Command {
    pub(super) fn execute(self, global: &Global, arguments: Vec<OsString>) -> Result<u8, Failure> {
        match self {
            Self::Materialize(materialize) => materialize.execute(global),
            Self::Stats(stats) => stats.execute(global),
            Self::Run(run) => run.execute(global).map_err(Failure::before_the_command),
            Self::Create(create) => create.execute(global).map_err(Failure::before_the_command),
            Self::Attach(attach) => attach.execute(global).map_err(Failure::before_the_command),
            Self::Ps(ps) => ps.execute(global),
            Self::Logs(logs) => logs.execute(global),
            Self::Exec(exec) => exec.execute(global).map_err(Failure::before_the_command),
            Self::Shell(shell) => shell.execute(global).map_err(Failure::before_the_command),
            Self::Top(top) => top.execute(global),
            Self::Port(port) => port.execute(global),
            Self::Cp(cp) => cp.execute(global),
            Self::Diff(diff) => diff.execute(global),
            Self::Commit(commit) => commit.execute(global),
            Self::Stop(stop) => stop.execute(global),
            Self::Kill(kill) => kill.execute(global),
            Self::Start(start) => start.execute(global),
            Self::Restart(restart) => restart.execute(global),
            Self::Rename(rename) => rename.execute(global),
            Self::Wait(wait) => wait.execute(global),
            Self::Rm(rm) => rm.execute(global),
            Self::Volume(volume) => volume.execute(global),
            Self::Containerd(containerd) => containerd.execute(global),
            Self::Podman(podman) => podman.execute(global),
            Self::MachineExists(exists) => exists.execute(),
            Self::ContainerPrune(prune) => prune.execute(global),
            Self::SystemPrune(prune) => prune.execute(global),
            Self::SystemDf(df) => df.execute(global),
            Self::Container(command) => super::execute(command.into(), global, arguments),
            Self::System(command) => super::execute(command.into(), global, arguments),
        }
    }
}

/// Handles the arguments with which this program starts itself. They are not commands for users.
pub(super) fn internal(arguments: &[OsString]) -> Option<Result<u8, Failure>> {
    let [_, what, rest @ ..] = arguments else { return None };
    if what == child::DIE_WITH_PARENT {
        return Some(child::die_with_parent(rest).map(|never| match never {}));
    }
    if what == confine::CONFINE {
        return Some(confine::enter::enter(rest));
    }
    if what == file_share::FILE_SHARE {
        return Some(file_share::enter(rest).map(|never| match never {}));
    }
    if what == share::SHARE {
        return Some(share::serve(rest));
    }
    if what == engine::CONTAINER {
        return Some(engine::run_stage(rest));
    }
    if what == engine::REMOVE {
        return Some(engine::remove_here(rest));
    }
    let words: Vec<&str> = rest.iter().filter_map(|word| word.to_str()).collect();
    match (what.to_str()?, words.as_slice()) {
        (machine::CLEAN, &[name]) => Some(machine::clean(name)),
        (machine::SUPERVISE, &[name, start]) => {
            log_to_stderr(0);
            Some(launch::supervise(name, start == "new"))
        }
        _ => None,
    }
}
