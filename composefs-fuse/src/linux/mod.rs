//! Kernel FUSE on Linux: mounting, serving, and staying in the background.

pub mod background;
mod fusermount;
mod mount;
mod mount_table;
mod readahead;
mod serve;
mod session;
mod stats_socket;

pub use mount::{MountError, MountOptions, MountPoint, Unmount, unmount};
pub use serve::{Ended, ServeError, ServeOptions, StatsOutlet, serve};
pub use session::{Session, SessionError, SessionEvent};
pub use stats_socket::{StatsError, StatsSocket, fetch_stats, find_stats_socket, stats_socket_path};
