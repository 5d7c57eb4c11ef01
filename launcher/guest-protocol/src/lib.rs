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
//! | 4 | 4 | stream: `0` for the machine, otherwise the number of a process, chosen by the host |
//! | 8 | 1 | type, as in [`Message`] |
//! | 9 | 3 | zero |
//! | 12 | length | payload |
//!
//! Each type is sent by one side only, except for [`Message::Credit`], and has a longest payload: that of the types with
//! output and input is [`MAX_CHUNK`], that of the guest's texts is 16 KiB.
//!
//! # Order of messages
//!
//! The guest says [`Message::Hello`], once. The host answers with a [`Message::Secret`] for each secret and then
//! [`Message::Setup`]. The guest mounts and enters the root and says [`Message::Ready`], once. From then on the host may
//! [`Message::Start`] any number of processes and [`Message::Connect`] to services of the guest, each under a stream
//! number it has not used before.
//!
//! A process that has been started sends [`Message::Started`], once, before its output. It ends with exactly one of
//! [`Message::Exited`] and [`Message::StartFailed`], after the last byte of its output.
//!
//! A connection carries what the client has sent as [`Message::Stdin`] and what the service has sent as
//! [`Message::Stdout`]. An empty one of them ends its direction. The guest says [`Message::Disconnected`], once, as the
//! last message: when both directions have ended, when the service refuses or resets the connection, or after the host's
//! [`Message::Reset`]. What the host sends after that is ignored.
//!
//! The guest may send [`Message::Warning`] at any time after `Hello`, and [`Message::Fatal`] once. The host ends the
//! machine with [`Message::PowerOff`], which the guest answers with [`Message::Halting`] once its disks have all
//! that was written; end of file on the channel means the same.
//!
//! # Flow control
//!
//! Each channel of a stream has a window: its sender may have at most [`WINDOW`] bytes under way (for a
//! connection [`Protocol::window`]) that the receiver has not returned with [`Message::Credit`]. A frame counts with
//! its header, see [`cost`]; the empty frame that ends a channel does not count, and a frame is returned as a whole. So
//! both sides read the channel without ever waiting for a slow reader, and a full pipe of one process holds up neither
//! another process nor a signal.
//!
//! # A guest that does not keep to this
//!
//! The host checks all of it ([`HostSide`]): the direction and the size of a frame before its payload is read, then the
//! order and the windows. The first breach ends the machine, and is the reason that the user sees. Warnings beyond
//! [`MAX_WARNINGS`] are dropped.

pub mod account;
pub mod archive;
pub mod changes;
mod frame;
mod host_side;
mod message;
mod options;
mod process;
mod relay;
mod setup;
#[cfg(test)]
mod tests;
mod warning;
mod window;

pub use host_side::{Breach, HostSide, Verdict};
pub use message::{Channel, Message, Protocol, Service, Side};
pub use options::{CAPABILITIES, Device, GuestOptions, Limit, Privileges, RESOURCES, Tmpfs};
pub use process::{Ending, Process, StartError, TerminalSize};
pub use relay::{Interest, Relay};
pub use setup::{Hello, MAX_SECRET, Network, Overlay, Part, RootSource, Secret, Setup, Share};
pub use warning::Warning;
pub use window::{Window, cost};

/// The name of the virtio-serial port, as the hypervisor's `name=` sets it.
pub const PORT_NAME: &str = "lamina.control";

/// The port of the host at which init reaches it by a virtio socket, where there is no virtio-serial port.
pub const SOCKET_PORT: u32 = 1024;

/// The version of this protocol. Host and guest must say the same: both come from one build.
pub const VERSION: u32 = 4;

/// The length of a frame's header in bytes.
pub const HEADER: usize = 12;

/// The longest payload in bytes: room for the arguments and environment that Linux allows one `execve` (2 MiB with the
/// usual stack limit), written as JSON.
pub const MAX_PAYLOAD: usize = 8 << 20;

/// The largest chunk of process output or input in one frame, in bytes.
pub const MAX_CHUNK: usize = 64 << 10;

/// The bytes of one channel that may be under way without having been credited.
pub const WINDOW: u32 = 256 << 10;

/// How many warnings of a guest the host takes.
pub const MAX_WARNINGS: u32 = 256;

/// The stream of messages that concern the machine as a whole.
pub const MACHINE: u32 = 0;

/// The line that init prints on the kernel's console before anything else: proof that a kernel has booted
/// as far as user space.
pub const UP: &str = "lamina: init is up";

/// The directory of the initramfs that holds the kernel modules, loaded in byte order of their names. A directory in it
/// holds the modules of a [`Part`], which are loaded only when that part is needed.
pub const MODULES: &str = "/modules";
