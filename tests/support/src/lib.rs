//! What the tests of several crates share: small images, registries, an ordinary user, polling, and seeded chance.
//!
//! What is missing on the host fails a test by its name; no test is skipped.

pub mod fake_registry;
pub mod image;
pub mod polling;
pub mod programs;
pub mod random;
pub mod registry;
pub mod tar_builder;
pub mod user;

pub use polling::{PATIENCE, until, until_some};
pub use random::{Random, noise};
