//! Trees for tests: a layer is written as a tar, ingested into a store of its own, prepared and opened.

#![allow(dead_code, reason = "no test uses all of it")]

use layer_store::{BaseId, ExpectedLayer, Silent, Store, View};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// The time of every entry: a whole second, and the nanoseconds of those written with [`Layer::file`].
pub(crate) const MTIME: (i64, u32) = (1_600_000_000, 123_456_789);

/// A layer being written. Paths are relative; parents that are not named are made by the store.
pub(crate) struct Layer {
    tar: Builder<Vec<u8>>,
    /// Of the next entry.
    pax: Vec<(String, Vec<u8>)>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tar: Builder::new(Vec::new()), pax: Vec::new() }
    }

    /// Gives the next entry an extended attribute.
    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.file_with_mode(path, 0o644, content)
    }

    pub(crate) fn file_with_mode(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let time = format!("{}.{}", MTIME.0, MTIME.1);
        self.pax.push(("mtime".to_owned(), time.into_bytes()));
        self.entry(EntryType::Regular, mode, path, None, content)
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, mode, path, None, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, 0o777, path, Some(target), b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, 0o644, path, Some(target), b"")
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        self.entry(EntryType::Fifo, 0o620, path, None, b"")
    }

    pub(crate) fn char_device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, 0o666, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.tar.append_data(&mut header, path, &[][..]).unwrap();
        self
    }

    fn entry(mut self, kind: EntryType, mode: u32, path: &str, target: Option<&str>, content: &[u8]) -> Self {
        let pax = std::mem::take(&mut self.pax);
        self.tar.append_pax_extensions(pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).unwrap();
        let mut header = header(kind, mode, content.len() as u64);
        match target {
            Some(target) => self.tar.append_link(&mut header, path, target).unwrap(),
            None => self.tar.append_data(&mut header, path, content).unwrap(),
        }
        self
    }

    /// The base of this one layer, and the store that it is in.
    pub(crate) fn into_base(self) -> (BaseId, Store, TempDir) {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let tar = self.tar.into_inner().unwrap();
        let layer = store.layers().ingest(&mut tar.as_slice(), &ExpectedLayer::default()).unwrap();
        let base = store.bases().prepare_layers(&[layer.diff_id], &[], &Silent).unwrap();
        (base, store, directory)
    }

    pub(crate) fn into_view(self) -> (View, TempDir) {
        let (base, store, directory) = self.into_base();
        (store.bases().open(&base).unwrap(), directory)
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
