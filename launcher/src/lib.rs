//! The program `lamina`: pulls and mounts images, and starts microVMs on them.
//!
//! A start goes through these modules: [`cli`] reads what is asked for into a [`spec`], [`host`] finds the programs and
//! files that carry it, [`engine`] decides how and writes the hypervisor's command line, [`root`] serves the image, and
//! [`machine`] runs the result and looks after it. In the guest, the crate `guest-init` is at the other end of the
//! control channel.

#[macro_use]
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
