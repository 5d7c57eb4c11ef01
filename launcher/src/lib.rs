//! The program `lamina`: pulls and mounts images, and starts microVMs on them.
//!
//! A start uses these modules: `cli` turns the command line into a `spec`, `host` finds the programs and files
//! that it needs, `engine` decides how to run it and writes the hypervisor's command line, `root` serves the image,
//! and `machine` runs the result and supervises it. In the guest, the crate `guest-init` is at the other end of the
//! control channel.
//!
//! # Other systems
//! A Mac has the commands on images and mounts. The modules for machines are compiled on Linux only, and `cli` says what else
//! depends on the system: `cli/linux` and `cli/portable` have the commands that differ, and `cli/machines` and `cli/serving` what
//! other commands ask of the system.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

#[macro_use]
mod print;

mod failure;

mod cli;
mod clock;
#[cfg(target_os = "linux")]
mod engine;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod machine;
mod meter;
mod open_store;
mod raw_terminal;
#[cfg(target_os = "linux")]
mod root;
#[cfg(target_os = "linux")]
mod spec;
#[cfg(target_os = "linux")]
mod sys;
mod text_file;

use transfer_cli::hint;

pub use cli::main;
