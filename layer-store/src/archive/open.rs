//! Finds out what a path or a pipe holds, and opens it.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::ImportError;
use super::files::{Directory, Files};
use super::sniff::{self, Form};
use super::stream::{Reception, Stream};
use super::tarball::Tarball;
use super::{ImportSource, layout};
use crate::Cancellation;
use crate::progress::CANCELLATION_POLL;

/// Opens an archive or layout. One that cannot be read from any place is received on the way.
pub(super) fn open(source: &ImportSource, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    match source {
        ImportSource::StandardInput => receive(rustix::stdio::stdin(), reception),
        ImportSource::Path(path) => open_path(path, reception),
    }
}

fn open_path(path: &Path, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    let source_name = reception.source_name;
    let failed = |cause| ImportError::Read { source_name: source_name.to_owned(), cause };
    let status = std::fs::metadata(path).map_err(failed)?;
    if status.is_dir() {
        if !path.join(layout::MARK).exists() {
            let reason = format!("the directory has no file {}", layout::MARK);
            return Err(ImportError::NotAnArchive { source_name: source_name.to_owned(), reason });
        }
        return Ok(Box::new(Directory::new(path, source_name)));
    }
    let file = File::open(path).map_err(failed)?;
    if !status.is_file() {
        return receive(file.as_fd(), reception);
    }
    let mut head = Vec::new();
    (&file).take(sniff::HEAD).read_to_end(&mut head).map_err(failed)?;
    if sniff::form(&head) == Form::Tar {
        return Ok(Box::new(Tarball::open(file, source_name)?));
    }
    stream(head, Watched { source: &file, cancellation: reception.cancellation }, reception)
}

fn receive(source: BorrowedFd<'_>, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    let mut pipe = Watched { source: Pipe { source }, cancellation: reception.cancellation };
    let mut head = Vec::new();
    (&mut pipe).take(sniff::HEAD).read_to_end(&mut head).map_err(|cause| {
        match reception.cancellation.is_cancelled() {
            true => ImportError::Cancelled,
            false => ImportError::Read { source_name: reception.source_name.to_owned(), cause },
        }
    })?;
    stream(head, pipe, reception)
}

/// Receives an archive of which `head` was read already.
fn stream(head: Vec<u8>, rest: impl Read + Send, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    let unknown = |reason: &str| {
        Err(ImportError::NotAnArchive { source_name: reception.source_name.to_owned(), reason: reason.to_owned() })
    };
    let failed = |cause| ImportError::Read { source_name: reception.source_name.to_owned(), cause };
    let form = sniff::form(&head);
    let foreign = sniff::foreign_compression(&head);
    let empty = head.is_empty();
    let whole = Cursor::new(head).chain(rest);
    let files = match form {
        Form::Tar => Stream::receive(whole, reception)?,
        Form::Gzip => Stream::receive(flate2::read::MultiGzDecoder::new(whole), reception)?,
        Form::Zstd => Stream::receive(zstd::stream::read::Decoder::new(whole).map_err(failed)?, reception)?,
        Form::Other => match foreign {
            Some(name) => return unknown(&format!("it is compressed with {name}, unpack it first")),
            None if empty => return unknown("it is empty"),
            None => return unknown("it does not begin like a tar archive"),
        },
    };
    Ok(Box::new(files))
}

/// Ends reading when the import is cancelled.
struct Watched<'a, R> {
    source: R,
    cancellation: &'a Cancellation,
}

impl<R: Read + Wait> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancellation.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            if self.source.wait()? {
                return self.source.read(buffer);
            }
        }
    }
}

/// Whether reading would block.
trait Wait {
    /// Waits for something to read, not longer than a cancelled import may take. `false`: nothing yet.
    fn wait(&mut self) -> io::Result<bool>;
}

impl Wait for &File {
    fn wait(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// A pipe, socket or terminal. Standard input has no buffer of its own here: poll would not see into it.
struct Pipe<'a> {
    source: BorrowedFd<'a>,
}

impl Wait for Pipe<'_> {
    fn wait(&mut self) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: CANCELLATION_POLL.subsec_nanos().into() };
        let mut ready = [PollFd::new(&self.source, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.source, buffer)?)
    }
}
