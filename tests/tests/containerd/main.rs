//! The snapshotter under Debian's containerd, with runc, `ctr` and a registry.

mod fixture;
mod healing;
mod lifecycle;
mod pulls;
mod refusals;
