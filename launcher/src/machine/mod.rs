//! One machine: its directories, its processes, and the run of its first command.

mod api;
mod children;
mod client;
mod console;
mod course;
mod directory;
mod ending;
mod ends;
mod event;
mod growth;
mod handover;
mod home;
mod log;
mod monitor;
mod record;
mod root;
mod session;
mod settle;
mod signals;
mod supervisor;
mod terminal;
mod watch;

pub use children::Children;
pub use client::{Machine, Stopped};
pub use directory::{Directory, all, new_record, one, remove, stats_socket};
pub use ends::{Ends, Output, Piped};
pub use growth::Growth;
pub use handover::{Handover, SUPERVISE, start as start_detached};
pub use home::{cache_home, is_valid_name, random_name};
pub use log::{Entry as LogEntry, FILE as OUTPUT_LOG};
pub use record::{ProcessRecord, Record, State, now};
pub use root::{DirectRoot, DirectoryRoot, ImageRoot, MountedRoot, RootServer};
pub use signals::Signals;
pub use supervisor::{Order, run};
pub use terminal::{size as terminal_size, wanted as terminal_wanted};
pub use watch::{WATCH, stand as stand_watch};
