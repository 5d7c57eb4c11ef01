//! Serves a view of image layers over the FUSE protocol.
//!
//! [`Server`] is the protocol without any I/O: one request in, at most one reply out. Kernel FUSE (the `linux` module)
//! and vhost-user-fs (the crate `vhost-user`) are two transports for its messages. Its counters in [`stats`], its cache
//! policy and its errors are the same for both.
//!
//! # Why two ways to read `/dev/fuse`
//! The crate `fuser` reads requests from a FUSE device itself and hands them over as typed calls. A VM's requests come from
//! a virtio queue instead, and Linux has messages that `fuser` cannot leave out (opens) or put together (listings with
//! attributes), so Linux has a loop of its own. The `portable` module is the transport for other systems, by `fuser`: see
//! there for what it costs. `composefs-fuse --transport fuser` mounts by it on Linux.
//!
//! # Other systems
//! Everything but the `linux` module compiles on every Unix. A Mac mounts by `portable::serve`, which is tested on Linux and
//! only type-checked for a Mac.

#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used))]

#[cfg(target_os = "linux")]
pub mod linux;
mod log_format;
pub mod mount;
mod mount_program;
pub mod portable;
mod reply;
mod request;
mod server;
pub mod stats;
pub mod wire;

pub use log_format::LogFormat;
pub use mount_program::{MountProgram, ProgramEnd, ProgramError, ServerProcess, run_mount_program};
pub use server::{CACHE_SECONDS, MAX_REPLY, MAX_REQUEST, Server, UserNamespace, report};
