//! Directories as `getdents64` returns them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, open, seek};

/// One record of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) name: Vec<u8>,
    pub(crate) ino: u64,
    pub(crate) kind: FileTypeNumber,
    /// Where to continue after this record: the value of `telldir` there.
    pub(crate) cookie: u64,
}

/// The type of a file as the bits of `st_mode` have it.
pub(crate) type FileTypeNumber = u32;

impl Record {
    pub(crate) fn path_in(&self, directory: &Path) -> PathBuf {
        directory.join(OsStr::from_bytes(&self.name))
    }

    pub(crate) fn is_dots(&self) -> bool {
        matches!(self.name.as_slice(), b"." | b"..")
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory.as_raw_mode()
    }
}

/// An open directory that is read with a buffer of a chosen size, like the `DIR` of the C library.
#[derive(Debug)]
pub(crate) struct Directory {
    file: OwnedFd,
    bytes: usize,
    read: VecDeque<Record>,
}

impl Directory {
    /// The least `bytes` in which every record fits: `linux_dirent64` and a name of 255 bytes with its NUL.
    pub(crate) const ONE_RECORD: usize = 280;

    pub(crate) fn open(path: &Path, bytes: usize) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { file, bytes, read: VecDeque::new() }
    }

    /// Another reader of the same open file: both share one position.
    pub(crate) fn share(&self) -> Self {
        Self { file: self.file.try_clone().expect("a descriptor"), bytes: self.bytes, read: VecDeque::new() }
    }

    /// The next record, or `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Record> {
        if self.read.is_empty() {
            self.fill();
        }
        self.read.pop_front()
    }

    fn fill(&mut self) {
        let mut buffer = vec![MaybeUninit::uninit(); self.bytes];
        let mut raw = RawDir::new(&self.file, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry.expect("a listing");
            self.read.push_back(Record {
                name: entry.file_name().to_bytes().to_vec(),
                ino: entry.ino(),
                kind: entry.file_type().as_raw_mode(),
                cookie: entry.next_entry_cookie(),
            });
            if raw.is_buffer_empty() {
                break;
            }
        }
    }

    /// `seekdir`.
    pub(crate) fn seek(&mut self, cookie: u64) {
        self.read.clear();
        seek(&self.file, SeekFrom::Start(cookie)).expect("a position in a listing");
    }

    /// `rewinddir`.
    pub(crate) fn rewind(&mut self) {
        self.seek(0);
    }

    /// The records from here to the end.
    pub(crate) fn rest(&mut self) -> Vec<Record> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// All records of a directory, `.` and `..` included.
pub(crate) fn records(path: &Path) -> Vec<Record> {
    Directory::open(path, 32 << 10).rest()
}

/// Calls `visit` for every directory below `root`, and `root` itself, with its parent.
pub(crate) fn each_directory(root: &Path, visit: &mut dyn FnMut(&Path, &Path)) {
    let mut open = vec![(root.to_owned(), root.to_owned())];
    while let Some((directory, parent)) = open.pop() {
        visit(&directory, &parent);
        let below = records(&directory).into_iter().filter(|record| record.is_directory() && !record.is_dots());
        open.extend(below.map(|record| (record.path_in(&directory), directory.clone())));
    }
}
