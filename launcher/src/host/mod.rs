//! What this host has and can do: its programs and files, and its abilities, found out by trying them.

mod ability;
pub(crate) mod bounded_log;
pub(crate) mod child;
pub(crate) mod command_line;
pub(crate) mod confine;
pub(crate) mod confinement_probe;
pub(crate) mod drain;
pub(crate) mod file_share;
pub(crate) mod fuse_socket;
pub(crate) mod initramfs;
pub(crate) mod json_file;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod packet_filter;
pub(crate) mod passt;
pub(crate) mod podman_store;
pub(crate) mod probe_cache;
pub(crate) mod process;
pub(crate) mod resolver;
pub(crate) mod share;
mod tools;
mod version;
pub(crate) mod virtiofsd;
pub(crate) mod vmlinux;

pub(crate) use ability::{current_boot, fuse, has_memory, namespaces, shared_memory};
pub(crate) use tools::{Boot, Tools, Wanted};
pub(crate) use version::version;
