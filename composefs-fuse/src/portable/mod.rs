//! The portable transport: the crate `fuser` carries the requests of the kernel to the server.
//!
//! It is for a Mac: macFUSE speaks an older FUSE with structures of its own, which `fuser` knows. It
//! works on Linux too, where the tests run the whole file-system suite through it.
//!
//! `fuser` hands requests over as typed calls. The module `calls` makes messages of them again and lets
//! [`Server`](crate::Server) answer those, so
//! that answers, errors and counters are the same for every transport.
//!
//! # Its policy
//! It uses only what every FUSE has, so it costs more messages than the `linux` module:
//!
//! * Every `open` and `opendir` is a message. The kernel keeps the pages of a file (`FOPEN_KEEP_CACHE`) and, on Linux, the
//!   listing of a directory (`FOPEN_CACHE_DIR`) from one to the next.
//! * A listing has no attributes: the kernel sends a `LOOKUP` for each name that a program looks at.
//! * A missing name is `ENOENT`, which no kernel caches.
//! * Names and attributes are valid for [`CACHE_SECONDS`](crate::CACHE_SECONDS), as in every transport.
//!
//! # Limits of a Mac
//! `fuser` always tells macFUSE that the names of the volume are case-insensitive. The server compares bytes, so a name in
//! another case is missing. No Mac has run this yet.

mod answer;
mod calls;
mod serve;
mod unmount;

#[cfg(target_os = "linux")]
pub(crate) use calls::Calls;
pub use serve::{ServeError, ServeOptions, serve};
pub use unmount::unmount;
