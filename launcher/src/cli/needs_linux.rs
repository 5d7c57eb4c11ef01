//! Commands that only Linux has. Elsewhere they are not in the help, and each is refused with what to do instead.

/// What to do where a machine is wanted.
macro_rules! remedy {
    () => {
        "run Lamina in a Linux VM, such as one of Lima, or on a Linux host: ssh HOST lamina ..."
    };
}

/// What to do about a command on machines.
const MACHINES: &str = concat!("machines need Linux; ", remedy!());

/// The commands, and what to do instead.
pub(super) const COMMANDS: &[(&[&str], &str)] = &[
    (
        &[
            "run",
            "create",
            "attach",
            "ps",
            "logs",
            "exec",
            "shell",
            "top",
            "port",
            "cp",
            "diff",
            "commit",
            "stop",
            "kill",
            "start",
            "restart",
            "rename",
            "wait",
            "rm",
            "volume",
            "container",
        ],
        MACHINES,
    ),
    (
        &["containerd", "podman"],
        "it works on Linux only, next to containerd or podman; `lamina --help` lists what works here",
    ),
    (
        &["materialize"],
        "an unpacked tree needs Linux for owners and attributes; `lamina mount` shows it, and `lamina export` writes the layers",
    ),
    (
        &["stats"],
        "it works on Linux only; `lamina mount --foreground --verbose` prints the counters of a mount at its end",
    ),
    (
        &["system"],
        "it works on Linux only; `lamina du` shows the space of images, and `lamina gc` frees what nothing needs",
    ),
];

/// What to do where a machine is named and there are none.
#[cfg(not(target_os = "linux"))]
pub(super) const REMEDY: &str = remedy!();

/// Returns the line for a command that this system does not have because it is not Linux.
pub(super) fn instead(command: &str) -> Option<&'static str> {
    if cfg!(target_os = "linux") { None } else { find(command) }
}

/// Returns what the list of commands ends with on a system that is not Linux.
pub(super) fn note() -> Option<&'static str> {
    (!cfg!(target_os = "linux")).then_some("Commands on machines, such as `lamina run`, need Linux.")
}

fn find(command: &str) -> Option<&'static str> {
    COMMANDS.iter().find(|(words, _)| words.contains(&command)).map(|(_, line)| *line)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Subcommand};

    use super::*;
    use crate::cli::{Cli, linux};

    #[test]
    fn every_command_of_linux_alone_is_refused_elsewhere_and_no_other() {
        let of_linux = linux::Command::augment_subcommands(clap::Command::new("lamina"));
        let of_linux: Vec<&str> = of_linux.get_subcommands().map(clap::Command::get_name).collect();
        assert!(of_linux.len() > 20, "{of_linux:?}");
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert_eq!(find(name).is_some(), of_linux.contains(&name), "{name}");
        }
        for word in COMMANDS.iter().flat_map(|(words, _)| *words) {
            assert!(of_linux.contains(word), "{word} is no command");
        }
    }
}
