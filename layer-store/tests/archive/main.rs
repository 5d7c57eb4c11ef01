//! Imports of layouts and archives: those that skopeo writes, and broken ones.

mod choice;
mod damage;
mod fixture;
mod forms;
mod names;
#[path = "../support/mod.rs"]
mod support;
