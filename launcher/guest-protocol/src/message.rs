//! The messages.

use crate::{Ending, Hello, Process, Setup, StartError, TerminalSize, Warning};

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
    /// 19, host to guest: ask the process to end, by this signal, or by its own stop signal when it is 0. One 32-bit
    /// signal number.
    Stop(u32),
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
