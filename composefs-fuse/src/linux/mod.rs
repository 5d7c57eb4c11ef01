//! Kernel FUSE on Linux: mounting, serving, and staying in the background.
//!
//! The modules depend on each other in this order: [`MountOptions`] and the mount table, [`MountPoint`] with the helper
//! `fusermount3`, the statistics socket, [`unmount`], the threads that answer the kernel ([`Workers`]), [`serve`] for one
//! mount from beginning to end, and [`run`] for a program that does nothing else.

mod background;
mod error;
mod fusermount;
mod mount_point;
mod mount_table;
mod options;
mod program;
mod ring;
mod serve;
mod stats_socket;
mod unmount;
mod workers;

pub use background::BackgroundError;
pub use error::MountError;
pub use mount_point::MountPoint;
pub use options::{MountOptions, OptionError, split_options};
pub use program::{MountProgram, ProgramEnd, ProgramError, ServerProcess, run};
pub use serve::{Ended, ServeError, ServeOptions, Served, StatsOutlet, serve};
pub use stats_socket::{StatsError, StatsSocket, fetch_stats, find_stats_socket, wait_for_ending_mounts};
pub use unmount::{Unmount, Unmounted, unmount};
pub use workers::{DeviceError, ServeEvent, Workers};
