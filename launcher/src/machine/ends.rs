//! The host's ends of a process's three channels.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

use guest_init::protocol::Channel;

use super::log;
use crate::failure::{About, Failure};

/// Takes what a process writes.
pub trait Output: Send {
    /// Takes bytes of standard output or standard error.
    ///
    /// # Errors
    /// Nobody wants any more: the process learns of it as it would from a pipe.
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()>;
}

/// Where a process's input comes from, if it has any, and where its output goes to.
pub struct Ends {
    pub(crate) input: Option<Box<dyn Read + Send>>,
    pub(crate) output: Box<dyn Output>,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

impl Ends {
    /// This process's own.
    #[must_use]
    pub fn own(input: bool) -> Self {
        Self { input: input.then(|| Box::new(io::stdin()) as Box<dyn Read + Send>), output: Box::new(Own) }
    }

    /// The log at `path`, and no input.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn log(path: &Path) -> Result<Self, Failure> {
        Ok(Self { input: None, output: Box::new(log::Writer::open(path).about(path.display())?) })
    }

    /// An output without an input.
    #[must_use]
    pub fn output(output: impl Output + 'static) -> Self {
        Self { input: None, output: Box::new(output) }
    }

    /// An input, and an output that takes what answers it.
    #[must_use]
    pub fn new(input: impl Read + Send + 'static, output: impl Output + 'static) -> Self {
        Self { input: Some(Box::new(input)), output: Box::new(output) }
    }
}

/// This process's own standard output and error.
#[derive(Debug)]
struct Own;

impl Output for Own {
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        match channel {
            Channel::Stderr => io::stderr().write_all(bytes),
            _ => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
        }
    }
}

/// Standard output into a writer; standard error into our own.
#[derive(Debug)]
pub struct Piped<W>(pub W);

impl<W: Write + Send> Output for Piped<W> {
    fn take(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        match channel {
            Channel::Stderr => io::stderr().write_all(bytes),
            _ => self.0.write_all(bytes),
        }
    }
}
