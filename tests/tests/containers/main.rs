//! Machines that are containers (`--engine container`): without KVM, without root, and without a trace afterwards.

mod fixture;
mod habits;
mod kept;
mod lifecycle;
mod network;
mod podman;
mod refusals;
mod shares;
mod users;
