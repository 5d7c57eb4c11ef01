//! How `lamina mount` serves a mount, which depends on the system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

#[cfg(target_os = "linux")]
pub(super) use self::linux::{Serving, wait_for_ending_mounts};
#[cfg(not(target_os = "linux"))]
pub(super) use self::portable::{Serving, wait_for_ending_mounts};
