//! Makes a layer from a host directory. Variants are made this way.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::error::StoreError;
use crate::{DiffId, Digest, ExpectedLayer, IngestError, Layers};

impl Layers<'_> {
    /// Stores the content of a host directory as a layer: the directory becomes the root, everything in it belongs to
    /// root, modes and times are kept, and hard links stay hard links. Sockets are left out, because tar cannot store
    /// them.
    ///
    /// A name such as `.wh.x` means the same as in any layer: `x` is deleted from the layers below.
    ///
    /// The same content makes the same layer. If the store already has it, nothing is written.
    pub fn add_directory(&self, directory: &Path) -> Result<DiffId, IngestError> {
        let diff_id = digest_of(directory)?;
        if self.has(&diff_id) {
            return Ok(diff_id);
        }
        let expected = ExpectedLayer { compressed: None, diff_id: Some(diff_id) };
        let (mut reader, writer) = io::pipe().map_err(StoreError::io(directory))?;
        std::thread::scope(|scope| {
            let packing = scope.spawn(|| pack(directory, writer));
            let ingested = self.ingest(&mut reader, &expected);
            // If the store stopped reading, this makes the packer end with an error of its own.
            drop(reader);
            let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing ended early").into()));
            match (ingested, packed) {
                (Ok(layer), Ok(())) => Ok(layer.diff_id),
                (Err(error), Err(packing)) if packing.is_source() => Err(changed(directory, &error, packing)),
                (Err(error), _) => Err(error),
                (Ok(_), Err(error)) => Err(error.into()),
            }
        })
    }
}

/// Why a directory could not be packed.
#[derive(Debug)]
enum PackError {
    /// A file of the directory could not be read.
    Source(PathBuf, io::Error),
    /// The receiver of the tar failed.
    Sink(io::Error),
}

impl PackError {
    fn is_source(&self) -> bool {
        matches!(self, Self::Source(..))
    }
}

impl From<io::Error> for PackError {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

impl From<PackError> for IngestError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Source(path, cause) => StoreError::Io { path, cause }.into(),
            PackError::Sink(cause) => Self::Source(cause),
        }
    }
}

fn changed(directory: &Path, seen: &IngestError, packing: PackError) -> IngestError {
    tracing::debug!("{}: {seen}", directory.display());
    packing.into()
}

/// Computes the DiffID of the directory's tar without writing anything.
fn digest_of(directory: &Path) -> Result<DiffId, IngestError> {
    let (mut reader, writer) = io::pipe().map_err(StoreError::io(directory))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(|| pack(directory, writer));
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        let hashed = loop {
            match reader.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(length) => hasher.update(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(IngestError::Source(error)),
            }
        };
        packing.join().unwrap_or_else(|_| Err(io::Error::other("packing ended early").into()))?;
        hashed.map(|()| DiffId(Digest::from_bytes(hasher.finalize().into())))
    })
}

fn pack(directory: &Path, out: PipeWriter) -> Result<(), PackError> {
    let mut packer = Packer { tar: Builder::new(io::BufWriter::with_capacity(64 << 10, out)), links: HashMap::new() };
    packer.add_tree(directory)?;
    packer.tar.into_inner()?.flush()?;
    Ok(())
}

struct Packer<W: Write> {
    tar: Builder<W>,
    /// The first path of each inode with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn add_tree(&mut self, root: &Path) -> Result<(), PackError> {
        let mut todo = vec![PathBuf::new()];
        while let Some(relative) = todo.pop() {
            let host = root.join(&relative);
            let source = |cause| PackError::Source(host.clone(), cause);
            let metadata = fs::symlink_metadata(&host).map_err(source)?;
            if metadata.is_dir() {
                // An entry for the root would give the image's root this directory's mode.
                if !relative.as_os_str().is_empty() {
                    self.add_entry(EntryType::Directory, &relative, &metadata, None)?;
                }
                let mut names = fs::read_dir(&host)
                    .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
                    .map_err(source)?;
                // Sorted, so that the same directory always gives the same tar.
                names.sort_unstable();
                todo.extend(names.into_iter().rev().map(|name| relative.join(name)));
            } else {
                self.add_file(&host, &relative, &metadata)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, host: &Path, relative: &Path, metadata: &Metadata) -> Result<(), PackError> {
        if metadata.nlink() > 1 {
            let first = self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| relative.to_owned());
            if first != relative {
                let first = first.clone();
                return self.add_entry(EntryType::Link, relative, metadata, Some(&first));
            }
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(host).map_err(|cause| PackError::Source(host.to_owned(), cause))?;
            return self.add_entry(EntryType::Symlink, relative, metadata, Some(&target));
        }
        if kind.is_fifo() {
            return self.add_entry(EntryType::Fifo, relative, metadata, None);
        }
        if kind.is_char_device() {
            return self.add_entry(EntryType::Char, relative, metadata, None);
        }
        if kind.is_block_device() {
            return self.add_entry(EntryType::Block, relative, metadata, None);
        }
        if kind.is_socket() {
            tracing::warn!("{}: sockets cannot be part of a layer; it is left out", host.display());
            return Ok(());
        }
        self.add_content(host, relative, metadata)
    }

    fn add_content(&mut self, host: &Path, relative: &Path, metadata: &Metadata) -> Result<(), PackError> {
        let source = |cause| PackError::Source(host.to_owned(), cause);
        let file = File::open(host).map_err(source)?;
        let mut header = self.header(EntryType::Regular, metadata)?;
        header.set_size(metadata.len());
        // A file that grows or shrinks meanwhile must not corrupt what follows it.
        let mut content = Exactly { file, left: metadata.len(), failure: None };
        let added = self.tar.append_data(&mut header, relative, &mut content);
        match content.failure {
            Some(cause) => Err(source(cause)),
            None => Ok(added?),
        }
    }

    fn add_entry(
        &mut self,
        kind: EntryType,
        relative: &Path,
        metadata: &Metadata,
        target: Option<&Path>,
    ) -> Result<(), PackError> {
        let mut header = self.header(kind, metadata)?;
        match target {
            Some(target) => self.tar.append_link(&mut header, relative, target)?,
            None => self.tar.append_data(&mut header, relative, io::empty())?,
        }
        Ok(())
    }

    /// Returns the header for a file that belongs to root, after writing a PAX record with the nanoseconds of its time.
    fn header(&mut self, kind: EntryType, metadata: &Metadata) -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
        if metadata.mtime() < 0 || metadata.mtime_nsec() != 0 {
            self.tar.append_pax_extensions([("mtime", pax_time(metadata).as_bytes())])?;
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // The C library's type: it has 64 bits on Linux, and 32 bits and a sign on macOS.
            let device = metadata.rdev() as rustix::fs::Dev;
            header.set_device_major(rustix::fs::major(device))?;
            header.set_device_minor(rustix::fs::minor(device))?;
        }
        Ok(header)
    }
}

/// Returns the time in PAX format. For a time before 1970, the fraction counts backwards from the second.
fn pax_time(metadata: &Metadata) -> String {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
}

/// Reads exactly `left` bytes of a file.
struct Exactly {
    file: File,
    left: u64,
    failure: Option<io::Error>,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let outcome = match self.file.read(buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => Err(io::Error::other("the file became shorter while it was read; try again")),
            outcome => outcome,
        };
        match outcome {
            Ok(filled) => {
                self.left -= filled as u64;
                Ok(filled)
            }
            Err(cause) => {
                let message = cause.to_string();
                self.failure = Some(cause);
                Err(io::Error::other(message))
            }
        }
    }
}
