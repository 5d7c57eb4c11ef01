//! Processes of a guest: what is started, and how it ended.

use serde::{Deserialize, Serialize};

use crate::Privileges;

/// A process to run in the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments. A program without a slash is looked for in the environment's `PATH`.
    pub argv: Vec<String>,
    /// The environment, in order; `PATH`, `HOME` and `HOSTNAME` (and `TERM` on a terminal) are added when
    /// missing.
    pub env: Vec<(String, String)>,
    /// The working directory, made when missing. `/` by default.
    pub cwd: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, as an image's `User` has it. Root by default.
    pub user: Option<String>,
    /// The size of its terminal, or `None` for three pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether `argv` is for one of init's own tools (`tool.rs`) rather than for a program of the root.
    #[serde(default)]
    pub by_init: bool,
    /// The signal that asks it to end, 1 to 64. By default that is SIGTERM, and SIGRTMIN+3 for systemd.
    #[serde(default)]
    pub stop_signal: Option<u32>,
    /// What it may do, and what it can never do.
    #[serde(default)]
    pub privileges: Privileges,
}

impl Process {
    /// One of init's own tools, run by root in `/`.
    #[must_use]
    pub fn tool(argv: &[&str]) -> Self {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        Self { argv, by_init: true, ..Self::default() }
    }

    /// Returns whether the program expects to be process 1: an init system, or a small init for containers. It gets a
    /// process namespace in which it is process 1.
    #[must_use]
    pub fn is_init_system(&self) -> bool {
        let program = self.argv.first().map_or("", String::as_str);
        let name = program.rsplit('/').next().unwrap_or(program);
        !self.by_init && INITS.contains(&name)
    }

    /// Returns whether the program may be systemd, going by its name.
    #[must_use]
    pub fn may_be_systemd(&self) -> bool {
        let program = self.argv.first().map_or("", String::as_str);
        self.is_init_system() && (program.ends_with("init") || program.ends_with("systemd"))
    }
}

/// The names of programs that are or start an init.
const INITS: [&str; 11] = [
    "init",
    "systemd",
    "tini",
    "tini-static",
    "docker-init",
    "catatonit",
    "dumb-init",
    "s6-svscan",
    "runit-init",
    "openrc-init",
    "my_init",
];

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in each line.
    pub columns: u16,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this status, 0 to 255.
    Status(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Ending {
    /// The exit status that a shell would report: the status itself, or 128 + the signal.
    #[must_use]
    pub const fn shell_status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError {
    /// 127 for a program that is not there, 126 for one that cannot be run, 125 for anything else.
    pub status: u8,
    /// What was wrong, naming the program, user or directory.
    pub cause: String,
}
