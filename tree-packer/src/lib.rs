//! Packs files of a host into tar streams: layers from directories, copies from and to guests, and what a guest has
//! changed.
//!
//! This is a separate crate because both the store and the guest's init use it, and init must stay small. It writes
//! GNU headers, and PAX records for what these cannot store: times before 1970 or with nanoseconds (`mtime`), and
//! extended attributes (`SCHILY.xattr.*`). A file with several names is packed once; its other names are hard links.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

/// Why a file could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file could not be read.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the host.
        #[source]
        cause: io::Error,
    },
    /// The stream could not be written.
    #[error("{0}")]
    Stream(#[source] io::Error),
}

impl PackError {
    fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        move |cause| Self::File { path: path.to_owned(), cause }
    }
}

impl From<PackError> for io::Error {
    /// Keeps the kind of the error, and names the file.
    fn from(error: PackError) -> Self {
        match error {
            PackError::File { ref cause, .. } => Self::new(cause.kind(), error),
            PackError::Stream(cause) => cause,
        }
    }
}

/// Packs files into one tar stream.
pub struct Packer<W: Write> {
    tar: Builder<W>,
    /// The name in the stream of each inode with several names.
    links: HashMap<(u64, u64), PathBuf>,
    owned_by_root: bool,
    pads: bool,
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("links", &self.links).finish_non_exhaustive()
    }
}

impl<W: Write> Packer<W> {
    /// Packs into `out`, with the owners of the files. A file that becomes shorter while it is read is an error.
    pub fn new(out: W) -> Self {
        Self { tar: Builder::new(out), links: HashMap::new(), owned_by_root: false, pads: false }
    }

    /// Makes root the owner of everything in the stream.
    #[must_use]
    pub fn owned_by_root(self) -> Self {
        Self { owned_by_root: true, ..self }
    }

    /// If a file becomes shorter while it is read, fills the rest with zeros. This is for trees that are in use.
    #[must_use]
    pub fn padding(self) -> Self {
        Self { pads: true, ..self }
    }

    /// Ends the stream, and returns the writer.
    ///
    /// # Errors
    /// The writer failed.
    pub fn finish(self) -> io::Result<W> {
        let mut out = self.tar.into_inner()?;
        out.flush()?;
        Ok(out)
    }

    /// Packs one file or directory, without what is in it, with these extended attributes. An empty name means the root
    /// of the stream. Returns whether it was packed: a socket is left out, because tar cannot store it.
    ///
    /// # Errors
    /// The file cannot be read, or the writer failed. If the file no longer exists, nothing is added to the stream.
    pub fn entry(
        &mut self,
        path: &Path,
        name: &Path,
        found: &Metadata,
        xattrs: &[(String, Vec<u8>)],
    ) -> Result<bool, PackError> {
        let kind = found.file_type();
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        let several = (found.nlink() > 1 && !found.is_dir()).then_some((found.dev(), found.ino()));
        if let Some(first) = several.and_then(|inode| self.links.get(&inode)).cloned() {
            self.link(EntryType::Link, name, &first, found, &[]).map_err(PackError::Stream)?;
            return Ok(true);
        }
        if kind.is_socket() {
            return Ok(false);
        }
        // Everything that may find the file gone happens before the first byte is written.
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(PackError::of(path))?;
            self.link(EntryType::Symlink, name, &target, found, xattrs).map_err(PackError::Stream)?;
        } else if kind.is_file() {
            let file = File::open(path).map_err(PackError::of(path))?;
            self.content(path, name, file, found, xattrs)?;
        } else {
            let kind = match () {
                () if kind.is_dir() => EntryType::Directory,
                () if kind.is_fifo() => EntryType::Fifo,
                () if kind.is_char_device() => EntryType::Char,
                () => EntryType::Block,
            };
            let header = self.header(kind, found, xattrs);
            header
                .and_then(|mut header| self.tar.append_data(&mut header, name, io::empty()))
                .map_err(PackError::Stream)?;
        }
        self.links.extend(several.map(|inode| (inode, name.to_owned())));
        Ok(true)
    }

    /// Packs an empty file that belongs to root, as for whiteouts.
    ///
    /// # Errors
    /// The writer failed.
    pub fn marker(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        self.tar.append_data(&mut header, name, io::empty())
    }

    fn link(
        &mut self,
        kind: EntryType,
        name: &Path,
        target: &Path,
        found: &Metadata,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        let mut header = self.header(kind, found, xattrs)?;
        self.tar.append_link(&mut header, name, target)
    }

    fn content(
        &mut self,
        path: &Path,
        name: &Path,
        file: File,
        found: &Metadata,
        xattrs: &[(String, Vec<u8>)],
    ) -> Result<(), PackError> {
        let mut header = self.header(EntryType::Regular, found, xattrs).map_err(PackError::Stream)?;
        header.set_size(found.len());
        // A file that grows or shrinks while it is read must not corrupt what follows it.
        let mut content = Content { file, left: found.len(), pads: self.pads, failure: None };
        let added = self.tar.append_data(&mut header, name, &mut content);
        match content.failure {
            Some(cause) => Err(PackError::of(path)(cause)),
            None => added.map_err(PackError::Stream),
        }
    }

    /// Returns the header of a file, after writing PAX records for what does not fit into it.
    fn header(&mut self, kind: EntryType, found: &Metadata, xattrs: &[(String, Vec<u8>)]) -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(found.mode() & 0o7777);
        let (uid, gid) = if self.owned_by_root { (0, 0) } else { (found.uid(), found.gid()) };
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(0);
        header.set_mtime(u64::try_from(found.mtime()).unwrap_or_default());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // The C library's type: it has 64 bits on Linux, and 32 bits and a sign on macOS.
            let device = found.rdev() as rustix::fs::Dev;
            header.set_device_major(rustix::fs::major(device))?;
            header.set_device_minor(rustix::fs::minor(device))?;
        }
        let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
        let time = (seconds < 0 || nanoseconds != 0)
            .then(|| ("mtime".to_owned(), pax_time(seconds, nanoseconds).into_bytes()));
        let xattrs = xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone()));
        let records: Vec<(String, Vec<u8>)> = time.into_iter().chain(xattrs).collect();
        if !records.is_empty() {
            self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        }
        Ok(header)
    }
}

/// Returns a time in PAX format. For a time before 1970, the fraction counts backwards from the second.
fn pax_time(seconds: i64, nanoseconds: i64) -> String {
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
}

/// Reads exactly `left` bytes of a file.
struct Content {
    file: File,
    left: u64,
    /// Whether zeros follow the end of the file.
    pads: bool,
    failure: Option<io::Error>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = match self.file.read(buffer) {
            Ok(0) if self.pads => {
                buffer.fill(0);
                Ok(wanted)
            }
            Ok(0) => Err(io::Error::other("the file became shorter while it was read; try again")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            read => read,
        };
        match read {
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

/// Returns the names in a directory, in byte order, so that the same directory always gives the same stream.
///
/// # Errors
/// The directory cannot be read.
pub fn names_in(directory: &Path) -> Result<Vec<OsString>, PackError> {
    let entries = fs::read_dir(directory).map_err(PackError::of(directory))?;
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = names.map_err(PackError::of(directory))?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_of_a_time_before_1970_counts_backwards() {
        assert_eq!(pax_time(7, 5), "7.000000005");
        assert_eq!(pax_time(-1, 250_000_000), "-0.750000000");
        assert_eq!(pax_time(-2, 0), "-2.000000000");
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_or_is_filled_with_zeros() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        fs::write(&path, "content").unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        fs::write(&path, "con").unwrap();
        let error = Packer::new(io::sink()).entry(&path, Path::new("file"), &found, &[]).unwrap_err();
        assert!(error.to_string().contains("file: the file became shorter"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        let mut packer = Packer::new(Vec::new()).padding();
        assert!(packer.entry(&path, Path::new("file"), &found, &[]).unwrap());
        let stream = packer.finish().unwrap();
        let mut archive = tar::Archive::new(stream.as_slice());
        let mut content = Vec::new();
        archive.entries().unwrap().next().unwrap().unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, b"con\0\0\0\0");
    }

    #[test]
    fn owners_are_those_of_the_files_or_root() {
        let scratch = tempfile::tempdir().unwrap();
        let found = fs::symlink_metadata(scratch.path()).unwrap();
        let owner = |packer: Packer<Vec<u8>>| {
            let mut packer = packer;
            packer.entry(scratch.path(), Path::new(""), &found, &[]).unwrap();
            let stream = packer.finish().unwrap();
            let mut archive = tar::Archive::new(stream.as_slice());
            archive.entries().unwrap().next().unwrap().unwrap().header().uid().unwrap()
        };
        assert_eq!(owner(Packer::new(Vec::new())), u64::from(found.uid()));
        assert_eq!(owner(Packer::new(Vec::new()).owned_by_root()), 0);
    }

    #[test]
    fn an_error_as_one_of_io_keeps_its_kind_and_names_the_file() {
        let missing = Path::new("/nonexistent/file");
        let error = io::Error::from(names_in(missing).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("/nonexistent/file: "), "{error}");
    }
}
