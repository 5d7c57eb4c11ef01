//! Access to the files of an archive of any form, and to those of a layout directory.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::ImportError;
use crate::BlobDigest;
use crate::DiffId;

/// What an archive has of one layer.
pub(super) enum Supply<'a> {
    /// A reader of `length` bytes that should be the layer.
    Bytes { reader: Box<dyn Read + Send + 'a>, length: u64 },
    /// The layer was ingested while the archive streamed.
    Ingested(Passed),
    /// The layer was in the stream, but the store did not accept it.
    Refused(String),
}

impl Supply<'_> {
    /// Returns how many bytes of the layer there are to read, or `None` if it was already read from the stream.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes { length, .. } => Some(*length),
            Self::Ingested(_) | Self::Refused(_) => None,
        }
    }
}

/// A layer that was ingested while the archive streamed.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) diff_id: DiffId,
    pub(super) compressed: BlobDigest,
    /// Bytes in the archive.
    pub(super) length: u64,
    /// Bytes of its tar; `None` if it was already in the store, so that it was not read.
    pub(super) blob_bytes: Option<u64>,
    pub(super) was_present: bool,
}

/// Files by name. Names are paths within the archive; none of them is ever looked up outside it.
pub(super) trait Files: Sync {
    /// Returns the content of a small file, or `None` if it does not exist. More than `limit` bytes are an error.
    fn document(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError>;

    /// Whether there is a file for this layer. Does not read it.
    fn has_layer(&self, path: &str) -> bool;

    /// Returns a layer, or `None` if there is no such file.
    fn layer(&self, path: &str) -> Result<Option<Supply<'_>>, ImportError>;
}

/// An OCI layout in a directory.
pub(super) struct Directory {
    root: PathBuf,
    source_name: String,
}

impl Directory {
    pub(super) fn new(root: &Path, source_name: &str) -> Self {
        Self { root: root.to_owned(), source_name: source_name.to_owned() }
    }

    /// Opens a file of a layout. Its name is fixed or a digest, never a path from one of the layout's JSON files.
    fn open(&self, path: &str) -> Result<Option<(File, u64)>, ImportError> {
        let failed = |cause| ImportError::Read { source_name: format!("{}/{path}", self.source_name), cause };
        // Without NONBLOCK, opening a FIFO in place of a blob would wait forever for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(self.root.join(path), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(e) if matches!(io::Error::from(e).kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e.into())),
        };
        let status = file.metadata().map_err(failed)?;
        if !status.is_file() {
            return Err(failed(io::Error::other("not a regular file")));
        }
        Ok(Some((file, status.len())))
    }
}

impl Files for Directory {
    fn document(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        let Some((file, length)) = self.open(path)? else { return Ok(None) };
        read_document(&self.source_name, path, file, length, limit).map(Some)
    }

    fn has_layer(&self, path: &str) -> bool {
        // If the file exists but cannot be opened, reading it reports the error.
        !matches!(self.open(path), Ok(None))
    }

    fn layer(&self, path: &str) -> Result<Option<Supply<'_>>, ImportError> {
        Ok(self.open(path)?.map(|(file, length)| Supply::Bytes { reader: Box::new(file), length }))
    }
}

/// Reads a JSON file of `length` bytes, which may be at most `limit`.
pub(super) fn read_document(
    source_name: &str,
    path: &str,
    reader: impl Read,
    length: u64,
    limit: u64,
) -> Result<Vec<u8>, ImportError> {
    if length > limit {
        let cause = crate::ImageError::TooLarge { what: path.to_owned(), limit };
        return Err(ImportError::Image { source_name: source_name.to_owned(), cause });
    }
    let mut bytes = Vec::new();
    match reader.take(length).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(cause) => Err(ImportError::Read { source_name: source_name.to_owned(), cause }),
    }
}
