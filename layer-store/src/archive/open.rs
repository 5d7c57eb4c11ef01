//! Finds out what a path or a pipe holds, and opens it.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::error::ImportError;
use super::files::{Directory, Files};
use super::sniff::{self, Form};
use super::stream::{Reception, Stream};
use super::tarball::Tarball;
use super::watch::{Pipe, Watched};
use super::{ImportSource, layout};
use crate::observer::Observer;

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
    (&mut pipe).take(sniff::HEAD).read_to_end(&mut head).map_err(|cause| match reception.cancellation.cancelled() {
        true => ImportError::Cancelled,
        false => ImportError::Read { source_name: reception.source_name.to_owned(), cause },
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
