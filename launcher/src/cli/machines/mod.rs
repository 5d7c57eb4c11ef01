//! What commands on images ask about machines, which only Linux runs.

#[cfg(target_os = "linux")]
mod known;
#[cfg(not(target_os = "linux"))]
mod none;
#[cfg(target_os = "linux")]
mod rows;

#[cfg(target_os = "linux")]
pub(super) use self::known::{find, images_in_use, inspected, named, print_json, print_text};
#[cfg(not(target_os = "linux"))]
pub(super) use self::none::{Machine, find, images_in_use, inspected, named, print_json, print_text};
#[cfg(target_os = "linux")]
pub(super) use self::rows::{describe, row};
#[cfg(target_os = "linux")]
pub(super) use crate::machine::Machine;
