//! The program `lamina`: pulls and mounts images, and starts microVMs on them.
//!
//! A start uses these modules: `cli` turns the command line into a `spec`, `host` finds the programs and files
//! that it needs, `engine` decides how to run it and writes the hypervisor's command line, `root` serves the image,
//! and `machine` runs the result and supervises it. In the guest, the crate `guest-init` is at the other end of the
//! control channel.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

#[macro_use]
mod print;

mod failure;
mod hint;

mod cli;
mod engine;
mod host;
mod machine;
mod meter;
mod root;
mod spec;
mod sys;

pub use cli::main;
