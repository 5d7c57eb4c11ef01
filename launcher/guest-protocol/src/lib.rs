//! What a launcher and the init of its guests agree on.
//!
//! Above all, the control channel: framed messages over one byte stream, the virtio-serial port named [`PORT_NAME`]
//! (`/sys/class/virtio-ports/*/name` in the guest). It carries everything that the guest is told, so that neither
//! arguments nor environment are on the kernel command line, which every guest process can read and which has at most
//! 2,047 bytes.
//!
//! # Frames
//!
//! Little-endian, no padding beyond what is shown:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | length of the payload in bytes, `0` to [`MAX_PAYLOAD`] |
//! | 4 | 4 | stream: `0` for the machine, else the number of a process, chosen by the host |
//! | 8 | 1 | type, as in [`Message`] |
//! | 9 | 3 | zero |
//! | 12 | length | payload |
//!
//! # Order of messages
//!
//! The guest says [`Message::Hello`], the host answers [`Message::Setup`], the guest mounts and enters the
//! root and says [`Message::Ready`]. From then on the host may [`Message::Start`] any number of processes,
//! each under a stream number it has not used before. A process ends with exactly one of
//! [`Message::Exited`] and [`Message::StartFailed`], after the last byte of its output. The host ends the
//! machine with [`Message::PowerOff`], which the guest answers with [`Message::Halting`] once its disks have all
//! that was written; end of file on the channel means the same.
//!
//! # Flow control
//!
//! Each of a process's three channels has a window: its sender may have at most [`WINDOW`] bytes under way
//! that the receiver has not returned by [`Message::Credit`]. So both sides read the channel without ever
//! waiting for a slow reader, and a full pipe of one process holds up neither another process nor a signal.

pub mod account;
pub mod archive;
pub mod changes;
mod frame;
mod message;
mod process;
mod setup;
#[cfg(test)]
mod tests;
mod warning;
mod window;

pub use message::{Channel, Message};
pub use process::{Ending, Process, StartError, TerminalSize};
pub use setup::{Hello, MAX_SECRET, Network, Overlay, Part, RootSource, Secret, Setup, Share};
pub use warning::Warning;
pub use window::Window;

/// The name of the virtio-serial port, as the hypervisor's `name=` sets it.
pub const PORT_NAME: &str = "lamina.control";

/// The version of this protocol. Host and guest must say the same: both come from one build.
pub const VERSION: u32 = 3;

/// The longest payload in bytes: room for the arguments and environment that Linux allows one `execve` (2 MiB with the
/// usual stack limit), written as JSON.
pub const MAX_PAYLOAD: usize = 8 << 20;

/// The largest chunk of process output or input in one frame, in bytes.
pub const MAX_CHUNK: usize = 64 << 10;

/// The bytes of one channel that may be under way without having been credited.
pub const WINDOW: u32 = 256 << 10;

/// The stream of messages that concern the machine as a whole.
pub const MACHINE: u32 = 0;

/// The line that init prints on the kernel's console before anything else: proof that a kernel has booted
/// as far as user space.
pub const UP: &str = "lamina: init is up";

/// The directory of the initramfs that holds the kernel modules, loaded in byte order of their names. A directory in it
/// holds the modules of a [`Part`], which are loaded only when that part is needed.
pub const MODULES: &str = "/modules";
