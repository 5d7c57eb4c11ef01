//! Serves a view of image layers to whoever speaks the FUSE protocol.
//!
//! [`Server`] is the protocol without any I/O: one request in, at most one reply out. Kernel FUSE (the `linux`
//! module) and vhost-user-fs (the launcher) are two ways to carry its messages, so what it counts in [`stats`], what
//! it caches and how it fails are the same for both.
//!
//! On other systems than Linux everything but that module compiles, and nothing mounts. A macFUSE transport would not
//! be a second way to carry the same messages: its kernel extension speaks 7.19 with structures of its own (`crtime`
//! and `flags` in the attributes), without `READDIRPLUS` and message-free opens, which the policy in `server` is built
//! on and the handshake insists on. It needs a second wire format and a second policy, and a Mac to prove them on.

#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used))]

#[cfg(target_os = "linux")]
pub mod linux;
mod reply;
mod report;
mod request;
mod server;
pub mod stats;
pub mod wire;

pub use report::report;
pub use server::{CACHE_SECONDS, MAX_REPLY, MAX_REQUEST, Server};
