//! Kernel FUSE on Linux: mounting, serving and unmounting.
//!
//! The modules depend on each other in this order: the mount table, [`MountPoint::mount`](crate::mount::MountPoint::mount) with the helper `fusermount3`, the
//! statistics socket, [`unmount`], the threads that answer the kernel ([`Workers`]) by messages or by rings, and [`serve`] for one mount from
//! beginning to end.

mod fusermount;
mod mount_point;
mod mount_table;
mod ring;
mod serve;
mod stats_socket;
mod unmount;
mod workers;

pub use serve::{ServeError, ServeOptions, StatsOutlet, serve};
pub use stats_socket::{StatsError, StatsSocket, fetch_stats, find_stats_socket, wait_for_ending_mounts};
pub use unmount::{Unmount, Unmounted, unmount};
pub use workers::{DeviceError, ServeEvent, Transport, Workers};
