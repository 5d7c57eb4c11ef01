//! Packs a tree into a stream.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::{about, names_in, unless_gone};

/// Packs files into one tar stream.
pub struct Packer<W: Write> {
    tar: Builder<W>,
    /// The name in the stream of each inode with several names.
    links: HashMap<(u64, u64), PathBuf>,
    /// Whether root is the owner of everything in the stream.
    owned_by_root: bool,
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("links", &self.links).finish_non_exhaustive()
    }
}

impl<W: Write> Packer<W> {
    /// Packs into `out`. The owners are those of the files, or root if `owned_by_root`.
    pub fn new(out: W, owned_by_root: bool) -> Self {
        Self { tar: Builder::new(out), links: HashMap::new(), owned_by_root }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// The writer failed.
    pub fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.flush()
    }

    /// Packs what is at `path` and everything below it, under `name`; an empty name means the root of the stream. Files
    /// that no longer exist when they are reached are left out.
    ///
    /// # Errors
    /// A path cannot be read (the error names it), or the writer failed.
    pub fn tree(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut todo = self.node(path, name)?;
        while let Some((path, name)) = todo.pop() {
            todo.extend(unless_gone(self.node(&path, &name))?.into_iter().flatten());
        }
        Ok(())
    }

    /// Packs one file or directory. Returns the paths in it with their names, the last first.
    fn node(&mut self, path: &Path, name: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let found = fs::symlink_metadata(path).map_err(about(path))?;
        self.entry(path, name, &found, &[])?;
        if !found.is_dir() {
            return Ok(Vec::new());
        }
        let names = names_in(path)?;
        Ok(names.into_iter().rev().map(|child| (path.join(&child), name.join(&child))).collect())
    }

    /// Packs one file, with these extended attributes.
    ///
    /// # Errors
    /// As for [`Packer::tree`]. If the file no longer exists, nothing of it is in the stream.
    pub fn entry(
        &mut self,
        path: &Path,
        name: &Path,
        found: &Metadata,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        let kind = found.file_type();
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        let several = (found.nlink() > 1 && !found.is_dir()).then_some((found.dev(), found.ino()));
        if let Some(first) = several.and_then(|inode| self.links.get(&inode)) {
            let mut header = self.header(EntryType::Link, found);
            return self.tar.append_link(&mut header, name, first);
        }
        if kind.is_socket() {
            return Ok(());
        }
        // Everything that may find the file gone happens before the first byte is written.
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(about(path))?;
            self.records(found, xattrs)?;
            let mut header = self.header(EntryType::Symlink, found);
            self.tar.append_link(&mut header, name, &target)?;
        } else if kind.is_file() {
            let file = File::open(path).map_err(about(path))?;
            self.records(found, xattrs)?;
            let mut header = self.header(EntryType::Regular, found);
            header.set_size(found.len());
            // A file that grows or shrinks meanwhile must not corrupt what follows it.
            self.tar.append_data(&mut header, name, file.chain(io::repeat(0)).take(found.len()))?;
        } else {
            let entry_type = match () {
                () if kind.is_dir() => EntryType::Directory,
                () if kind.is_fifo() => EntryType::Fifo,
                () if kind.is_char_device() => EntryType::Char,
                () => EntryType::Block,
            };
            self.records(found, xattrs)?;
            let mut header = self.header(entry_type, found);
            self.tar.append_data(&mut header, name, io::empty())?;
        }
        self.links.extend(several.map(|inode| (inode, name.to_owned())));
        Ok(())
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

    fn header(&self, kind: EntryType, found: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(found.mode() & 0o7777);
        let (uid, gid) = if self.owned_by_root { (0, 0) } else { (found.uid(), found.gid()) };
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(0);
        header.set_mtime(u64::try_from(found.mtime()).unwrap_or_default());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // A GNU header has room for every number that Linux gives a device.
            let _ = header.set_device_major(rustix::fs::major(found.rdev()));
            let _ = header.set_device_minor(rustix::fs::minor(found.rdev()));
        }
        header
    }

    fn records(&mut self, found: &Metadata, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
        let time = (found.mtime() < 0 || found.mtime_nsec() != 0).then(|| ("mtime".to_owned(), pax_time(found)));
        let xattrs = xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone()));
        let records: Vec<(String, Vec<u8>)> = time.into_iter().chain(xattrs).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }
}

/// Returns the time of modification in PAX format. For a time before 1970, the fraction counts backwards from the
/// second.
fn pax_time(found: &Metadata) -> Vec<u8> {
    let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}").into_bytes();
    }
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds).into_bytes()
}
