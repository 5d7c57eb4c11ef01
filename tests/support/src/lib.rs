//! What the tests of several crates share: small images, registries, an ordinary user, polling, and seeded random
//! numbers.
//!
//! If something is missing on the host, a test fails and names it; no test is skipped.

pub mod fake_registry;
pub mod image;
pub mod polling;
pub mod programs;
pub mod random;
pub mod registry;
pub mod rings;
pub mod slow_proxy;
pub mod tar_builder;
pub mod user;

pub use polling::{PATIENCE, until, until_some};
pub use random::{Random, noise};
pub use rings::RingsOn;
