//! The snapshotter under Debian's containerd, with runc, `ctr` and a registry.

mod cri;
mod cri_messages;
mod fixture;
mod grpc;
mod healing;
mod lifecycle;
mod pull_command;
mod pulls;
mod refusals;
mod systemd;
