//! QEMU: its command line, and the boot that proves that KVM runs a guest.

pub(crate) mod command;
pub(crate) mod probe;

pub(crate) use command::{Machine, Qemu, command};
