//! The messages.

use std::fmt;

use crate::{Ending, Hello, Process, Secret, Setup, StartError, TerminalSize, Warning};

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
    /// 6, host to guest: bytes for its standard input; none means end of file. For a connection: what the client has
    /// sent.
    Stdin(Vec<u8>),
    /// 7, guest to host: bytes it wrote to standard output, or to its terminal. For a connection: what the service has
    /// sent; none means end of file.
    Stdout(Vec<u8>),
    /// 8, guest to host: bytes it wrote to standard error.
    Stderr(Vec<u8>),
    /// 9, both ways: the receiver has passed on this many bytes, headers included. One byte for the channel (0, 1 or 2,
    /// as file descriptors are numbered), then a 32-bit count.
    Credit(Channel, u32),
    /// 10, host to guest: send this signal to the process, and not to its children. One 32-bit signal number.
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
    /// 16, host to guest: this output of the process is no longer read, as with a closed pipe. One byte for the
    /// channel, as in [`Message::Credit`].
    Close(Channel),
    /// 17, guest to host, the last message: everything is written back, and nothing is lost if the machine is
    /// ended at once. No payload.
    Halting,
    /// 18, guest to host: the guest has reached a limit, or lacks something that it should have. JSON of [`Warning`].
    Warning(Warning),
    /// 19, host to guest: ask the process to end, with this signal, or with its own stop signal when it is 0. One
    /// 32-bit signal number.
    Stop(u32),
    /// 20, host to guest, before [`Message::Setup`]: a file for `/run/secrets`. One byte with the length of the name, the
    /// name, the content.
    Secret(Secret),
    /// 21, host to guest: connect to a service of the guest under this frame's stream. 16-bit port, then one byte: 0 for
    /// TCP, 1 for UDP.
    Connect(Service),
    /// 22, host to guest: the client is gone; drop the connection. No payload.
    Reset,
    /// 23, guest to host, the last message of a connection. One byte: 1 if both directions have ended, 0 if the service
    /// refused or reset the connection, or after [`Message::Reset`].
    Disconnected {
        /// Whether both directions have ended.
        in_order: bool,
    },
}

impl Message {
    /// Returns the name of its type.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Setup(_) => "Setup",
            Self::Ready => "Ready",
            Self::Start(_) => "Start",
            Self::Started => "Started",
            Self::Stdin(_) => "Stdin",
            Self::Stdout(_) => "Stdout",
            Self::Stderr(_) => "Stderr",
            Self::Credit(..) => "Credit",
            Self::Signal(_) => "Signal",
            Self::Resize(_) => "Resize",
            Self::Exited(_) => "Exited",
            Self::StartFailed(_) => "StartFailed",
            Self::Fatal(_) => "Fatal",
            Self::PowerOff => "PowerOff",
            Self::Close(_) => "Close",
            Self::Halting => "Halting",
            Self::Warning(_) => "Warning",
            Self::Stop(_) => "Stop",
            Self::Secret(_) => "Secret",
            Self::Connect(_) => "Connect",
            Self::Reset => "Reset",
            Self::Disconnected { .. } => "Disconnected",
        }
    }
}

/// One end of the control channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest's init.
    Guest,
    /// The launcher.
    Host,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "guest",
            Self::Host => "host",
        })
    }
}

/// What a connection leads to: a port at the guest's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// 1 to 65535.
    pub port: u16,
    /// The protocol of the service.
    pub protocol: Protocol,
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A stream of bytes each way.
    Tcp,
    /// Datagrams: each frame is one. A datagram for which the window has no room is lost.
    Udp,
}

impl Protocol {
    /// Returns the window of each direction of a connection in bytes. A host has many connections, so it is smaller than
    /// that of a process; for datagrams it has room for the largest.
    #[must_use]
    pub const fn window(self) -> u32 {
        match self {
            Self::Tcp => 48 << 10,
            Self::Udp => 80 << 10,
        }
    }
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
pub(crate) const CHANNELS: [Channel; 3] = [Channel::Stdin, Channel::Stdout, Channel::Stderr];
