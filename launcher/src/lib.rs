//! The program `lamina`: pulls and mounts images, and starts microVMs on them.
//!
//! A start goes through these parts: [`cli`] reads what is asked for, [`host`] finds out what can be done,
//! [`policy`] decides, [`launch`] puts the pieces together, [`hypervisor`] writes the command line, and
//! [`machine`] runs it and looks after it. In the guest, the crate `guest-init` is at the other end of the
//! control channel.

#[macro_use]
mod tell;

pub mod accelerator;
pub mod child;
pub mod cli;
pub mod command;
mod document;
pub mod failure;
pub mod file_share;
pub mod host;
pub mod hypervisor;
pub mod initramfs;
pub mod kept_disk;
pub mod kernel;
pub mod launch;
pub mod machine;
pub mod memory;
mod meter;
pub mod network;
pub mod picture;
pub mod policy;
pub mod ready;
pub mod root;
pub mod secret;
pub mod share;
pub mod spec;
mod unchecked;
pub mod variant;
pub mod virtiofsd;
