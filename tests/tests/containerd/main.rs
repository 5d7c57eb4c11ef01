//! The snapshotter under Debian's containerd, with runc, `ctr` and a registry.

mod cri;
mod cri_messages;
mod fixture;
mod freeing;
mod grpc;
mod healing;
mod lifecycle;
mod power_cuts;
mod proxy;
mod pull_command;
mod pulls;
mod refusals;
mod snapshots;
mod systemd;
