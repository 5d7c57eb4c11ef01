//! What the host and the first process of a guest agree on, and the parts of that process that are
//! pure enough to be tested on the host.
//!
//! The binary `guest-init` is the guest's `/init`; the launcher links this library for the protocol.

pub mod account;
pub mod archive;
pub mod protocol;
pub mod window;

/// The line that init prints on the kernel's console before anything else: proof that a kernel has booted
/// as far as user space.
pub const UP: &str = "lamina: init is up";

/// The directory of the initramfs that holds the kernel modules, loaded in byte order of their names.
pub const MODULES: &str = "/modules";
