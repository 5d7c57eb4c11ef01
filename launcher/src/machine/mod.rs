//! One machine: its directories, its processes, and the run of its first command.

mod children;
mod console;
mod directory;
mod ending;
mod event;
mod monitor;
mod root;
mod session;
mod signals;
mod supervisor;
mod terminal;

pub use children::Children;
pub use directory::{Directory, cache_home, is_valid_name, random_name, stats_socket};
pub use root::{DirectRoot, DirectoryRoot, ImageRoot, MountedRoot, RootServer};
pub use signals::Signals;
pub use supervisor::{Order, run};
pub use terminal::{size as terminal_size, wanted as terminal_wanted};
