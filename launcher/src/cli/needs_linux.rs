//! Commands that only Linux has. Elsewhere they are not in the help, each is refused with what to do instead, and what is said
//! about other commands does not name them.

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

/// Whether a word is such a command, on any system.
pub(super) fn is_command(word: &str) -> bool {
    find(word).is_some()
}

/// Returns what is left of a remedy on this system: the parts that name none of these commands.
pub(super) fn remedy(line: &str) -> String {
    if cfg!(target_os = "linux") { line.to_owned() } else { without_parts(line) }
}

fn without_parts(line: &str) -> String {
    let parts: Vec<&str> = line.split("; ").filter(|part| !names_one(part)).collect();
    if parts.is_empty() { MACHINES.to_owned() } else { parts.join("; ") }
}

/// Returns the command line of `lamina` with help for this system.
pub(super) fn with_help(lamina: clap::Command) -> clap::Command {
    if cfg!(target_os = "linux") {
        return lamina;
    }
    lamina
        .about("Keep every OCI image layer once, and mount images without unpacking them")
        .mut_subcommands(without_lines)
}

/// Removes the lines after a command's options that are about these commands or about machines, such as examples.
fn without_lines(command: clap::Command) -> clap::Command {
    let help = command.get_after_help().map(|help| {
        let help = help.to_string();
        let lines: Vec<&str> =
            help.lines().filter(|line| !names_one(line) && !line.contains("--type machine")).collect();
        lines.join("\n")
    });
    let command = match help {
        Some(help) => command.after_help(help),
        None => command,
    };
    command.mut_subcommands(without_lines)
}

/// Whether a text names one of these commands, its help or its manual page.
fn names_one(text: &str) -> bool {
    ["lamina ", "lamina help ", "lamina-"].into_iter().flat_map(|before| text.split(before).skip(1)).any(|rest| {
        let word = rest.split(|sign: char| !sign.is_ascii_lowercase() && sign != '-').next();
        word.is_some_and(is_command)
    })
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
    use clap::{Args, CommandFactory, Subcommand};

    use super::*;
    use crate::cli::{Cli, linux, portable, refused};

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

    /// Gives a command, and those in it, the form that it has on a Mac.
    fn on_a_mac(command: clap::Command) -> clap::Command {
        let command = match command.get_name() {
            "doctor" => portable::doctor::Doctor::augment_args(clap::Command::new("doctor")),
            "umount" => portable::umount::Umount::augment_args(clap::Command::new("umount")),
            "mount" => command.mut_arg("stats", |stats| stats.hide(true)),
            _ => command,
        };
        command.mut_subcommands(on_a_mac)
    }

    #[test]
    fn no_help_names_a_command_that_a_mac_does_not_have() {
        for command in Cli::command().get_subcommands().filter(|command| !is_command(command.get_name())) {
            let mut command = without_lines(on_a_mac(command.clone()));
            let mut commands: Vec<&mut clap::Command> = vec![&mut command];
            while let Some(command) = commands.pop() {
                let help = command.render_long_help().to_string();
                let wrong: Vec<&str> = help.lines().filter(|line| names_one(line)).collect();
                assert!(wrong.is_empty(), "{}: {wrong:?}", command.get_name());
                // The parser makes a command `help` of each group.
                let has_example = help.contains("  lamina ") || command.get_name() == "help";
                assert!(has_example, "{} has no example left", command.get_name());
                commands.extend(command.get_subcommands_mut());
            }
        }
    }

    #[test]
    fn no_remedy_names_a_command_that_a_mac_does_not_have() {
        for (what, line) in refused::lines() {
            assert!(!names_one(&without_parts(line)), "{what}: {line}");
        }
        assert_eq!(without_parts("ask; `lamina ps` lists"), "ask");
        assert_eq!(without_parts("`lamina ps` lists"), MACHINES);
    }
}
