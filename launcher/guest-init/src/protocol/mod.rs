//! The control channel between the launcher and a guest's init: framed messages over one byte stream.
//!
//! The stream is the virtio-serial port named [`PORT_NAME`] (`/sys/class/virtio-ports/*/name` in the
//! guest). It carries everything the guest is told, so that neither arguments nor environment ever stand
//! on the kernel command line, which is readable by every guest process and at most 2,047 bytes long.
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
//! # Course
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

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

mod frame;
#[cfg(test)]
mod tests;

/// The name of the virtio-serial port, as the hypervisor's `name=` sets it.
pub const PORT_NAME: &str = "lamina.control";

/// The version of this protocol. Host and guest must say the same: both come from one build.
pub const VERSION: u32 = 2;

/// The longest payload in bytes: room for the arguments and environment that Linux lets one `execve` have
/// (2 MiB with the usual stack limit), written as JSON.
pub const MAX_PAYLOAD: usize = 8 << 20;

/// The largest chunk of process output or input in one frame, in bytes.
pub const MAX_CHUNK: usize = 64 << 10;

/// The bytes of one channel that may be under way without having been credited.
pub const WINDOW: u32 = 256 << 10;

/// The stream of messages that concern the machine as a whole.
pub const MACHINE: u32 = 0;

/// One message. The comment of each variant gives its type byte and direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// 1, guest to host: init runs and has the channel. JSON of [`Hello`].
    Hello(Hello),
    /// 2, host to guest: what to mount. JSON of [`Setup`].
    Setup(Setup),
    /// 3, guest to host: the root is entered, processes can be started. No payload.
    Ready,
    /// 4, host to guest: start a process under this frame's stream. JSON of [`Process`].
    Start(Process),
    /// 5, guest to host: the process runs. No payload.
    Started,
    /// 6, host to guest: bytes for its standard input; none means end of file.
    Stdin(Vec<u8>),
    /// 7, guest to host: bytes it wrote to standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// 8, guest to host: bytes it wrote to standard error.
    Stderr(Vec<u8>),
    /// 9, both ways: the receiver has passed on this many bytes. One byte for the channel (0, 1 or 2, as
    /// file descriptors are numbered), then a 32-bit count.
    Credit(Channel, u32),
    /// 10, host to guest: send this signal to the process's group. One 32-bit signal number.
    Signal(u32),
    /// 11, host to guest: the terminal now has this size. 16-bit rows, 16-bit columns.
    Resize(TerminalSize),
    /// 12, guest to host: it ended. JSON of [`Ending`].
    Exited(Ending),
    /// 13, guest to host: it could not be started. JSON of [`StartError`].
    StartFailed(StartError),
    /// 14, guest to host: the machine cannot go on and powers off. UTF-8 text that says why.
    Fatal(String),
    /// 15, host to guest: write back what is dirty and power off. No payload.
    PowerOff,
    /// 16, host to guest: nobody reads this output of the process any more, as behind a closed pipe. One byte
    /// for the channel, as in [`Message::Credit`].
    Close(Channel),
    /// 17, guest to host, the last message: everything is written back, and nothing is lost if the machine is
    /// ended at once. No payload.
    Halting,
}

/// What init says of itself when it comes up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the guest's build.
    pub version: u32,
    /// The release of the running kernel, as `uname -r` tells it.
    pub kernel: String,
}

/// What a guest is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The host name: 1 to 64 bytes (`HOST_NAME_MAX`).
    pub hostname: String,
    /// The host's clock: seconds since 1970. The guest's hardware clock may be absent or coarse.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanoseconds: u32,
    /// What the root is read from.
    pub root: RootSource,
    /// What lies over the root.
    pub overlay: Overlay,
    /// Further shares, mounted in this order.
    pub shares: Vec<Share>,
    /// What its one network card is set to, if it has one.
    #[serde(default)]
    pub network: Option<Network>,
    /// Files that appear in `/run/secrets`, which lies in the guest's memory.
    #[serde(default)]
    pub secrets: Vec<Secret>,
}

/// The setting of a network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Bits of the network's own part of the address, 0 to 32.
    pub prefix: u8,
    /// Where everything else goes.
    pub gateway: Ipv4Addr,
    /// For `/etc/resolv.conf`.
    pub name_servers: Vec<Ipv4Addr>,
}

/// A file that only the guest gets to see.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its name: no path.
    pub name: String,
    /// Its content, at most [`MAX_SECRET`] bytes.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    /// Leaves out the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The largest secret in bytes.
pub const MAX_SECRET: usize = 256 << 10;

/// What a root is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootSource {
    /// The virtiofs share with this tag.
    Share(String),
    /// The EROFS image on the virtio disk with this serial, which has 1 to 20 bytes (`VIRTIO_BLK_ID_BYTES`).
    Image(String),
}

/// Where a guest's writes to its root go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// To a tmpfs of at most this many bytes; it is gone with the guest.
    Memory {
        /// The size in bytes, or the kernel's default (half of the memory).
        limit: Option<u64>,
    },
    /// To the ext4 file system on the virtio disk with this serial, where they stay.
    Disk {
        /// 1 to 20 bytes.
        serial: String,
    },
    /// Nowhere: the root is read-only.
    ReadOnly,
}

/// One virtiofs share besides the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its tag: 1 to 36 bytes.
    pub tag: String,
    /// The absolute path of the mount point in the guest, made when missing.
    pub target: String,
    /// Whether the guest mounts it read-only. The host enforces that too.
    pub read_only: bool,
    /// The name of the one file in the share that is to appear at `target`, for a share of a single file.
    pub file: Option<String>,
}

/// A process to run in the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments. A program without a slash is looked for in the environment's `PATH`.
    pub argv: Vec<String>,
    /// The environment, in order; `PATH`, `HOME` and `HOSTNAME` (and `TERM` on a terminal) are added when
    /// missing.
    pub env: Vec<(String, String)>,
    /// The working directory, made when missing. `/` by default.
    pub cwd: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, as an image's `User` has it. Root by default.
    pub user: Option<String>,
    /// The size of its terminal, or `None` for three pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether `argv` is for one of init's own tools (`tool.rs`) rather than for a program of the root.
    #[serde(default)]
    pub by_init: bool,
}

impl Process {
    /// One of init's own tools, run by root in `/`.
    #[must_use]
    pub fn tool(argv: &[&str]) -> Self {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        Self { argv, env: Vec::new(), cwd: None, user: None, terminal: None, by_init: true }
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in each line.
    pub columns: u16,
}

/// One of a process's three channels, numbered as its file descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard input: sent by the host.
    Stdin,
    /// Standard output, or the terminal: sent by the guest.
    Stdout,
    /// Standard error: sent by the guest.
    Stderr,
}

/// The channels in the order of their numbers.
const CHANNELS: [Channel; 3] = [Channel::Stdin, Channel::Stdout, Channel::Stderr];

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this status, 0 to 255.
    Status(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Ending {
    /// The exit status that a shell would report: the status itself, or 128 + the signal.
    #[must_use]
    pub const fn shell_status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError {
    /// 127 for a program that is not there, 126 for one that cannot be run, 125 for anything else.
    pub status: u8,
    /// What was wrong, naming the program, user or directory.
    pub cause: String,
}
