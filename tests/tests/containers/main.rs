//! Machines that are containers (`--engine container`): without KVM, without root, and without a trace afterwards.

mod by_root;
mod fixture;
mod habits;
mod host;
mod kept;
mod lifecycle;
mod network;
mod podman;
mod refusals;
mod shares;
mod users;
mod work;
