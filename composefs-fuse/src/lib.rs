//! Serves a view of image layers over the FUSE protocol.
//!
//! [`Server`] is the protocol without any I/O: one request in, at most one reply out. Kernel FUSE (the `linux` module)
//! and vhost-user-fs (the crate `vhost-user`) are two transports for its messages. Its counters in [`stats`], its cache
//! policy and its errors are the same for both.
//!
//! # Why not `fuser`
//! The crate `fuser` reads requests from a FUSE device itself and hands them over as typed calls. A VM's requests come from
//! a virtio queue instead, so both transports need a function from message to message, which `fuser` does not offer.
//! Beside that function a second way to read `/dev/fuse` would only add a second policy to keep equal.
//!
//! # Other systems
//! On systems other than Linux everything but the `linux` module compiles, and nothing mounts. `fuser` belongs in a macFUSE
//! transport: macFUSE's kernel extension speaks version 7.19 with its own structures (`crtime` and `flags`
//! in the attributes) and without `READDIRPLUS` and message-free opens, which the policy in `server` is built on and the
//! handshake requires. It needs a second wire format and a second policy, and a Mac to test them on.

#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used))]

#[cfg(target_os = "linux")]
pub mod linux;
mod log_format;
mod reply;
mod request;
mod server;
pub mod stats;
pub mod wire;

pub use log_format::LogFormat;
pub use server::{CACHE_SECONDS, MAX_REPLY, MAX_REQUEST, Server, UserNamespace, report};
