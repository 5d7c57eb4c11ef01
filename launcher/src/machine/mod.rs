//! One machine: its directories, its processes, and the run of its first command.
//!
//! # The forms of a machine
//!
//! | form | what it is for |
//! |---|---|
//! | [`Spec`](crate::spec::Spec) | what was asked for: all that is needed to start it, now or again; `spec.json`, unless the machine is ephemeral |
//! | [`Prepared`](launch::Prepared) | the spec and what was decided for it on this host, so that `--dry-run` and a run agree |
//! | [`Plan`](crate::engine::Plan) | what the engine is told: the same for every engine |
//! | [`Setup`](guest_protocol::Setup) | what the guest's init is told |
//! | [`RunConfig`] | everything that a run uses, created and checked before anything is started |
//! | [`Record`] | what other commands know about it: `machine.json` |
//!
//! # Every wait, and how it ends
//!
//! No wait on a guest, an engine, a lock or a socket lasts longer than its deadline, and a second signal to the waiting
//! process ends each of them (the first signal goes to the command, if there is one).
//!
//! | what waits | for what | at most |
//! |---|---|---|
//! | supervisor | servers to create their sockets | 10 s |
//! | supervisor | the guest to be ready, up to its command's start, and then `--ready port:N` | `--ready-timeout`, 120 s |
//! | supervisor | the command, while it runs | unlimited: it ends by signals, `stop` and `kill` |
//! | supervisor | the command to end after SIGTERM, SIGHUP or `stop` | 10 s, `stop --timeout` |
//! | supervisor | the command to end after SIGKILL | 2 s, then the guest is killed |
//! | supervisor | the guest to power off | 10 s, and again for as long as it writes to its disk |
//! | supervisor | a guest that panicked to reset | 1 s |
//! | supervisor | the engine to end after a server that it uses | 0.5 s |
//! | supervisor | messages that have not arrived when the engine ends | 0.5 s |
//! | supervisor | the engine, or another process that it has killed | 10 s each |
//! | supervisor | the reader of the command's output | unlimited, as for every program with a pipe |
//! | supervisor | the guest to read its control channel | never: a separate thread writes; 16 MiB of messages may wait, then the guest is ended |
//! | supervisor | the end of the console to be in its log | 2 s |
//! | supervisor | its cleaner to end | 5 s |
//! | `run --detach`, `start` | the supervisor to say that the machine is ready | as long as the supervisor may take |
//! | `exec`, `cp`, `diff`, `commit` | the supervisor to answer | 10 s |
//! | `exec`, `cp`, `diff`, `commit` | the process in the guest | unlimited; after SIGTERM or SIGHUP 10 s |
//! | `stop` | the machine to end | `--timeout` and 15 s, or a day while it writes its disk; then it is killed |
//! | `kill`, `rm --force` | the machine to end | 15 s, then its supervisor is killed, and 15 s for that |
//! | `wait` | the machine to end | unlimited, because that is its purpose |
//! | every command | a machine's lock | 0.5 s |
//! | every command | a lock of the store | unlimited, with a notice; the layer that is waited for arrives |
//!
//! A supervisor whose socket was removed creates it again within a second, see `restore_api` in [`supervisor`].

mod api;
mod children;
mod cleaner;
mod client;
mod console;
mod directory;
mod end;
mod event;
mod exit_record;
mod file_watch;
mod guest_warning;
mod home;
pub(crate) mod kept;
pub(crate) mod launch;
mod lifecycle;
mod limits;
mod log;
mod log_reader;
mod outbox;
mod permit;
mod ports;
mod ready_pipe;
mod reconcile;
mod record;
mod request;
mod session;
mod signals;
mod stdio;
mod supervisor;
mod terminal;
pub(crate) mod volumes;

pub(crate) use cleaner::{CLEAN, clean};
pub(crate) use client::{Machine, Stopped};
pub(crate) use console::{FILE as CONSOLE_LOG, PIPE as CONSOLE_PIPE};
pub(crate) use directory::{
    Directory, all, existing as directory_of, is_there as exists, remove, rename, stats_socket,
};
pub(crate) use file_watch::FileWatch;
pub(crate) use home::{cache_home, is_valid_name, random_name};
pub(crate) use log::{FILE as OUTPUT_LOG, LogEntry, stdio as log_stdio};
pub(crate) use log_reader::LogReader;
pub(crate) use ports::Listeners;
pub(crate) use ready_pipe::{FILE as LAUNCHER_LOG, ReadyPipe, SUPERVISE, start as start_detached};
pub(crate) use record::{Record, State, new_record};
pub(crate) use signals::Signals;
pub(crate) use stdio::{Captured, Piped, SharedBuffer, Stdio, WriteFailure};
pub(crate) use supervisor::{RunConfig, run};
pub(crate) use terminal::{size as terminal_size, wanted as terminal_wanted};
