//! Imports of layouts and archives: those that skopeo writes, and broken ones.

mod choice;
mod daemon;
mod damage;
mod fixture;
mod forms;
mod names;
mod rootfs;
mod sha512;
#[path = "../support/mod.rs"]
mod support;
