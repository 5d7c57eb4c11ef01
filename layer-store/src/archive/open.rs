//! Detects what a path or a pipe contains, and opens it.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::daemon::Saved;
use super::error::ImportError;
use super::files::{Directory, Files};
use super::sniff::{self, Form};
use super::stream::{Reception, Stream};
use super::tarball::Tarball;
use super::watch::{Pipe, Watched};
use super::{ImportSource, layout};
use crate::ingest::{Decoder, Peeked};
use crate::observer::Observer;
use crate::{IngestError, Limits};

/// Opens an archive or layout. One without random access is received completely.
pub(super) fn open(source: &ImportSource, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    match source {
        ImportSource::StandardInput => receive(rustix::stdio::stdin(), reception),
        ImportSource::Path(path) => open_path(path, reception),
        ImportSource::Daemon { image, host } => {
            let failed = |cause| match reception.cancellation.cancelled() {
                true => ImportError::Cancelled,
                false => ImportError::Read { source_name: reception.source_name.to_owned(), cause },
            };
            let mut saved = Saved::ask(image, host.as_deref(), reception.cancellation).map_err(failed)?;
            let mut head = Vec::new();
            (&mut saved).take(sniff::HEAD).read_to_end(&mut head).map_err(failed)?;
            stream(head, saved, reception)
        }
    }
}

fn open_path(path: &Path, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    let source_name = reception.source_name;
    let failed = |cause| ImportError::Read { source_name: source_name.to_owned(), cause };
    let status = std::fs::metadata(path).map_err(failed)?;
    if status.is_dir() {
        if !path.join(layout::LIST).exists() {
            let reason = format!("the directory has no file {}", layout::LIST);
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
    (&mut pipe).take(sniff::HEAD).read_to_end(&mut head).map_err(|cause| match reception.cancellation.cancelled() {
        true => ImportError::Cancelled,
        false => ImportError::Read { source_name: reception.source_name.to_owned(), cause },
    })?;
    stream(head, pipe, reception)
}

/// Receives an archive whose first bytes, `head`, were already read.
fn stream(head: Vec<u8>, rest: impl Read + Send, reception: &Reception<'_>) -> Result<Box<dyn Files>, ImportError> {
    let unknown = |reason: &str| {
        Err(ImportError::NotAnArchive { source_name: reception.source_name.to_owned(), reason: reason.to_owned() })
    };
    let form = sniff::form(&head);
    let is_empty = head.is_empty();
    let whole = Cursor::new(head).chain(rest);
    let files = match form {
        Form::Tar => Stream::receive(whole, reception)?,
        Form::Compressed => {
            // One archive may have many layers, and each has its own limit.
            let limits = Limits { layer_bytes: u64::MAX, ..reception.sink.limits() };
            let decoder = match Decoder::new(Counter { source: whole, taken: 0 }) {
                Ok(decoder) => decoder,
                Err(error @ IngestError::Compression(_)) => return unknown(&error.to_string()),
                Err(error) => {
                    let cause = std::io::Error::other(error);
                    return Err(ImportError::Read { source_name: reception.source_name.to_owned(), cause });
                }
            };
            Stream::receive(Unpacked { decoder, length: 0, limits }, reception)?
        }
        Form::Other if is_empty => return unknown("it is empty"),
        Form::Other => return unknown("it does not begin like a tar archive"),
    };
    Ok(Box::new(files))
}

/// The decompressed stream of an archive. It may be no larger than the limits allow for the bytes received.
struct Unpacked<R: Read> {
    decoder: Decoder<Peeked<Counter<R>>>,
    length: u64,
    limits: Limits,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.length += read as u64;
        match self.limits.exceeded(self.length, self.decoder.peeked().taken) {
            Some(why) => Err(std::io::Error::other(why)),
            None => Ok(read),
        }
    }
}

/// Counts the bytes received.
struct Counter<R> {
    source: R,
    taken: u64,
}

impl<R: Read> Read for Counter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.taken += read as u64;
        Ok(read)
    }
}
