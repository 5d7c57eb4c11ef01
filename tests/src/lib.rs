//! What the end-to-end tests share: real images, a real registry, sessions of the programs under test as an
//! ordinary user, comparison of whole trees, and a search for anything that is left.
//!
//! The tests need root (`umoci unpack`, which trees are compared with, makes device nodes and sets owners) and what
//! `scripts/setup` installs. If something is missing, a test fails and names it; no test is skipped.

pub mod conformance;
pub mod deviations;
pub mod engine;
pub mod images;
pub mod inventory;
pub mod invocation;
pub mod layout;
pub mod name_server;
pub mod oracle;
pub mod other_host;
pub mod power_cut;
pub mod session;
pub mod stand_in;
pub mod static_program;
pub mod store_checks;
pub mod traces;
pub mod transport;
pub mod tree;

pub use engine::Engine;
pub use images::Image;
pub use inventory::Inventory;
pub use invocation::{Finished, Started};
pub use layout::Layout;
pub use name_server::NameServer;
pub use other_host::on_other_host;
pub use session::Session;
pub use test_support::registry::Registry;
pub use test_support::user::Actor;
pub use test_support::{PATIENCE, Random, programs, until, until_some};
pub use transport::Transport;
pub use tree::{Deviation, TreeDump};
