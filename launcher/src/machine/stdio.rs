//! What the three channels of a process are connected to on this host.

use std::fmt;
use std::io::{self, PipeWriter, Read, Seek, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use guest_protocol::Channel;
use layer_store::printable::Printable;
use tempfile::SpooledTempFile;

use crate::failure::Failure;

/// Receives what a process writes.
pub(crate) trait Output: Send {
    /// Receives bytes of standard output or standard error.
    ///
    /// # Errors
    /// The output is no longer wanted. The process then sees a closed pipe.
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()>;
}

/// Where a process's input comes from, if it has any, and where its output goes.
pub(crate) struct Stdio {
    pub(crate) input: Option<Box<dyn Read + Send>>,
    pub(crate) output: Box<dyn Output>,
    /// The other end of an input that stays open.
    pub(crate) open_input: Option<PipeWriter>,
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio").field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

impl Stdio {
    /// Returns this process's own streams. Output that cannot be written is noted in `lost`.
    #[must_use]
    pub(crate) fn own(input: bool, lost: WriteFailure) -> Self {
        Self {
            input: input.then(|| Box::new(io::stdin()) as Box<dyn Read + Send>),
            output: Box::new(Own(lost)),
            open_input: None,
        }
    }

    /// Returns an output without an input.
    #[must_use]
    pub(crate) fn output(output: impl Output + 'static) -> Self {
        Self { input: None, output: Box::new(output), open_input: None }
    }

    /// Adds an input that stays open, and to which `lamina attach` writes.
    ///
    /// # Errors
    /// No pipe can be created.
    pub(crate) fn with_open_input(self) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { input: Some(Box::new(reader)), open_input: Some(writer), ..self })
    }

    /// Returns an input and an output.
    #[must_use]
    pub(crate) fn new(input: impl Read + Send + 'static, output: impl Output + 'static) -> Self {
        Self { input: Some(Box::new(input)), output: Box::new(output), open_input: None }
    }
}

/// The first output that could not be written, shared by its clones. A closed pipe does not count, because its reader
/// has read enough.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteFailure(Arc<OnceLock<Failure>>);

impl WriteFailure {
    /// Fails if output was lost.
    ///
    /// # Errors
    /// Names what could not be written, and why.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.0.get().cloned().map_or(Ok(()), Err)
    }
}

/// This process's own standard output and error.
#[derive(Debug)]
struct Own(WriteFailure);

impl Output for Own {
    #[expect(clippy::disallowed_methods, reason = "the output of a command stays byte-exact")]
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        let (name, written) = match channel {
            Channel::Stderr => ("standard error", io::stderr().write_all(bytes)),
            _ => {
                let mut stdout = io::stdout().lock();
                ("standard output", stdout.write_all(bytes).and_then(|()| stdout.flush()))
            }
        };
        written.inspect_err(|error| {
            if error.kind() != io::ErrorKind::BrokenPipe {
                let _ = self.0.0.set(Failure::new(name, error));
            }
        })
    }
}

/// How much of a buffer is in memory, in bytes.
const IN_MEMORY: usize = 1 << 20;

/// A buffer of bounded size, shared by its clones. Long content goes to a temporary file.
#[derive(Clone, Debug)]
pub(crate) struct SharedBuffer(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    file: SpooledTempFile,
    /// How many more bytes it takes.
    room: u64,
}

impl SharedBuffer {
    /// Returns a buffer that takes at most `most` bytes, and then fails.
    pub(crate) fn new(most: u64) -> Self {
        Self(Arc::new(Mutex::new(Kept { file: SpooledTempFile::new(IN_MEMORY), room: most })))
    }

    /// Returns a reader of what has been written.
    pub(crate) fn read(&self) -> io::Result<impl Read + use<>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = std::mem::replace(&mut kept.file, SpooledTempFile::new(IN_MEMORY));
        file.rewind()?;
        Ok(file)
    }
}

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.room = kept.room.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        kept.file.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much of each of a command's outputs is kept for `--json`, in bytes.
const MOST_CAPTURED: u64 = 1 << 30;

/// Standard output and standard error, each into a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// What was written to standard output.
    pub(crate) stdout: SharedBuffer,
    /// What was written to standard error.
    pub(crate) stderr: SharedBuffer,
}

impl Default for Captured {
    fn default() -> Self {
        Self { stdout: SharedBuffer::new(MOST_CAPTURED), stderr: SharedBuffer::new(MOST_CAPTURED) }
    }
}

impl Output for Captured {
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        match channel {
            Channel::Stderr => self.stderr.write_all(bytes),
            _ => self.stdout.write_all(bytes),
        }
    }
}

/// Standard output goes to a writer. Standard error, where a tool in the guest writes messages, goes to ours as text.
#[derive(Debug)]
pub(crate) struct Piped<W> {
    to: W,
    messages: Printable<io::Stderr>,
}

impl<W> Piped<W> {
    #[expect(clippy::disallowed_methods, reason = "it is written through `Printable`")]
    pub(crate) fn new(to: W) -> Self {
        Self { to, messages: Printable::new(io::stderr()) }
    }
}

impl<W: Write + Send> Output for Piped<W> {
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        match channel {
            Channel::Stderr => self.messages.write_all(bytes),
            _ => self.to.write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_what_it_has_room_for_and_then_fails() {
        let mut buffer = SharedBuffer::new(3 << 20);
        for number in 0..3 {
            buffer.clone().write_all(&vec![number; 1 << 20]).unwrap();
        }
        assert_eq!(buffer.write(&[1]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let mut all = Vec::new();
        buffer.read().unwrap().read_to_end(&mut all).unwrap();
        assert_eq!((all.len(), all[0], all[all.len() - 1]), (3 << 20, 0, 2));
    }
}
