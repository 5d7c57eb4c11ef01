//! Power cuts: what a command does to a file system is recorded, and every disk that a cut could leave is made.
//!
//! [`trace`] runs a command under strace; [`disk`] follows its calls in a model that knows, of every file and directory,
//! what was synced; [`cuts`] chooses what survives of the rest.
//!
//! The model guarantees what POSIX does and no more: `fsync` of a file keeps its content, `fsync` of a directory keeps its names,
//! and nothing else keeps anything. Of the unsynced changes, each directory may keep all, none or only the first ones,
//! independently of other directories; content may be missing, truncated or zeros.

pub mod cuts;
pub mod disk;
pub mod trace;

pub use cuts::Cut;
pub use disk::Disk;
pub use trace::Recorded;
