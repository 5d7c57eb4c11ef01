//! Layers made of a few entries.

use tar::{Builder, EntryType, Header};

/// The time of every entry: a whole second, and the nanoseconds of those written with [`TarBuilder::file`].
pub const MTIME: (i64, u32) = (1_600_000_000, 123_456_789);

/// A tar that grows entry by entry, each owned by 0:0. Paths are relative.
#[expect(missing_debug_implementations, reason = "tar::Builder has none")]
pub struct TarBuilder {
    tar: Builder<Vec<u8>>,
    /// The records of the next entry.
    pax: Vec<(String, Vec<u8>)>,
}

impl Default for TarBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TarBuilder {
    /// A tar without entries.
    #[must_use]
    pub fn new() -> Self {
        Self { tar: Builder::new(Vec::new()), pax: Vec::new() }
    }

    /// Sets an extended attribute of the next entry.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    /// Adds a regular file, mode 0644.
    #[must_use]
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.file_with_mode(path, 0o644, content)
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file_with_mode(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let time = format!("{}.{}", MTIME.0, MTIME.1);
        self.pax.push(("mtime".to_owned(), time.into_bytes()));
        self.entry(EntryType::Regular, mode, path, None, content)
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, mode, path, None, b"")
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, 0o777, path, Some(target), b"")
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, 0o644, path, Some(target), b"")
    }

    /// Adds a FIFO, mode 0620.
    #[must_use]
    pub fn fifo(self, path: &str) -> Self {
        self.entry(EntryType::Fifo, 0o620, path, None, b"")
    }

    /// Adds a character device, mode 0666.
    ///
    /// # Panics
    /// When a number does not fit in the tar header.
    #[must_use]
    pub fn char_device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, 0o666, 0);
        header.set_device_major(major).expect("a major number");
        header.set_device_minor(minor).expect("a minor number");
        self.tar.append_data(&mut header, path, &[][..]).expect("an entry");
        self
    }

    /// The finished tar.
    ///
    /// # Panics
    /// Never: it is written to memory.
    #[must_use]
    pub fn into_tar(self) -> Vec<u8> {
        self.tar.into_inner().expect("the end of a tar")
    }

    fn entry(mut self, kind: EntryType, mode: u32, path: &str, target: Option<&str>, content: &[u8]) -> Self {
        let pax = std::mem::take(&mut self.pax);
        let records = pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records).expect("the records of an entry");
        let mut header = header(kind, mode, content.len() as u64);
        match target {
            Some(target) => self.tar.append_link(&mut header, path, target).expect("an entry"),
            None => self.tar.append_data(&mut header, path, content).expect("an entry"),
        }
        self
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME.0.unsigned_abs());
    header.set_size(size);
    header
}
