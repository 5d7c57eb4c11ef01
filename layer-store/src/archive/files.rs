//! The files of an archive, whatever shape it has, and those of a layout directory.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::ImportError;
use crate::BlobDigest;
use crate::DiffId;

/// What an archive can give of one layer.
pub(super) enum Supply<'a> {
    /// `length` bytes that should be it.
    Bytes { reader: Box<dyn Read + Send + 'a>, length: u64 },
    /// It went into the store while the archive passed by.
    Ingested(Passed),
    /// It passed by, but the store did not take it.
    Refused(String),
}

impl Supply<'_> {
    /// Bytes in the archive, if they are the layer.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes { length, .. } => Some(*length),
            Self::Ingested(_) | Self::Refused(_) => None,
        }
    }
}

/// A layer that went into the store while the archive passed by.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) diff_id: DiffId,
    pub(super) compressed: BlobDigest,
    /// Bytes in the archive.
    pub(super) length: u64,
    /// Bytes of its tar; `None` where it was in the store before, so that it was not read.
    pub(super) blob_bytes: Option<u64>,
    pub(super) was_present: bool,
}

/// Named files. Names are paths within the archive; none of them is ever looked up outside.
pub(super) trait Files: Sync {
    /// The whole of a small file, `None` where there is none. More than `limit` bytes are an error.
    fn document(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError>;

    /// Whether there is a file for this layer. It is not read.
    fn has_layer(&self, path: &str) -> bool;

    /// A layer, `None` where there is no such file.
    fn layer(&self, path: &str) -> Result<Option<Supply<'_>>, ImportError>;
}

/// An OCI layout that lies open in a directory.
pub(super) struct Directory {
    root: PathBuf,
    source_name: String,
}

impl Directory {
    pub(super) fn new(root: &Path, source_name: &str) -> Self {
        Self { root: root.to_owned(), source_name: source_name.to_owned() }
    }

    /// Opens a file of a layout, whose names are fixed or digests: what a document says is never a path here.
    fn open(&self, path: &str) -> Result<Option<(File, u64)>, ImportError> {
        let failed = |cause| ImportError::Read { source_name: format!("{}/{path}", self.source_name), cause };
        // Without NONBLOCK a FIFO in place of a blob would wait for a writer for ever.
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
        // What is wrong with a file that is there is said when it is read.
        !matches!(self.open(path), Ok(None))
    }

    fn layer(&self, path: &str) -> Result<Option<Supply<'_>>, ImportError> {
        Ok(self.open(path)?.map(|(file, length)| Supply::Bytes { reader: Box::new(file), length }))
    }
}

/// Reads a document of `length` bytes, no more than `limit`.
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
