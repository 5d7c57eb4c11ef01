//! A tree on the host's file system. It is walked name by name, so no symbolic link is followed and no path is too
//! long.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use layer_store::Kind;
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dump::{Line, TreeDump};
use super::paths::{Components, image_path};
use super::stack::{Mtime, content_mark};

/// The root of a tree on the host.
#[derive(Debug)]
pub struct HostTree {
    root: OwnedFd,
}

/// A name in an open directory, as the `*at` calls take it.
#[derive(Debug)]
pub(crate) struct At {
    pub(crate) directory: OwnedFd,
    name: Vec<u8>,
}

impl At {
    /// Returns the name as the `*at` calls take it.
    pub(crate) fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// Returns a path for calls that have no `*at` form. The `l*` calls do not follow its last name.
    pub(crate) fn proc_path(&self) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(self.name())
    }

    /// `lstat`.
    pub(crate) fn stat(&self) -> io::Result<Stat> {
        Ok(sys::statat(&self.directory, self.name(), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Returns all extended attributes that the host shows.
    pub(crate) fn xattrs(&self) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let path = self.proc_path();
        let mut names = vec![0; 1 << 16];
        let length = match sys::llistxattr(&path, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let mut xattrs = BTreeMap::new();
        for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 1 << 16];
            let length = sys::lgetxattr(&path, OsStr::from_bytes(name), &mut value[..])?;
            value.truncate(length);
            xattrs.insert(name.to_vec(), value);
        }
        Ok(xattrs)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl HostTree {
    /// Opens a directory as the root of a tree.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: sys::open(root, DIRECTORY, Mode::empty())? })
    }

    /// Returns the directory that has the last of `components`, and that name.
    pub(crate) fn at(&self, components: &[Vec<u8>]) -> io::Result<At> {
        let Some((name, parents)) = components.split_last() else {
            return Ok(At { directory: self.root.try_clone()?, name: b".".to_vec() });
        };
        let mut directory = self.root.try_clone()?;
        for parent in parents {
            directory = sys::openat(&directory, OsStr::from_bytes(parent), DIRECTORY, Mode::empty())?;
        }
        Ok(At { directory, name: name.clone() })
    }

    /// `lstat`, or `None` if nothing is there, or if a parent is not a directory.
    pub(crate) fn find(&self, components: &[Vec<u8>]) -> io::Result<Option<(At, Stat)>> {
        let found = self.at(components).and_then(|at| at.stat().map(|stat| (at, stat)));
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Returns whether a directory is at this path.
    pub(crate) fn is_directory(&self, components: &[Vec<u8>]) -> io::Result<bool> {
        Ok(self.find(components)?.is_some_and(|(_, stat)| kind_of(&stat) == Kind::Directory))
    }

    /// Returns the names in a directory.
    pub(crate) fn names(&self, directory: &[Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
        let at = self.at(directory)?;
        let open = sys::openat(&at.directory, at.name(), DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in sys::Dir::new(open)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// Returns the whole tree as text.
    ///
    /// # Errors
    /// If anything in it cannot be read.
    pub fn dump(&self) -> io::Result<TreeDump> {
        let mut lines = Vec::new();
        let mut waiting = vec![Components::new()];
        while let Some(path) = waiting.pop() {
            let at = self.at(&path)?;
            let stat = at.stat()?;
            if kind_of(&stat) == Kind::Directory {
                waiting.extend(self.names(&path)?.into_iter().map(|name| [&path[..], &[name]].concat()));
            }
            lines.push((image_path(&path), (stat.st_dev, stat.st_ino), line_of(&at, &stat)?));
        }
        Ok(TreeDump::of(lines))
    }
}

/// Returns the type that `stat` reports.
pub(crate) fn kind_of(stat: &Stat) -> Kind {
    Kind::from_mode(stat.st_mode).expect("the kernel knows seven types")
}

fn line_of(at: &At, stat: &Stat) -> io::Result<Line> {
    let kind = kind_of(stat);
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    #[allow(clippy::useless_conversion, reason = "the field is narrower on other machines")]
    let nlink = stat.st_nlink.into();
    Ok(Line {
        kind,
        permissions: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX) },
        nlink,
        first_name: Vec::new(),
        target: match kind {
            Kind::Symlink => Some(sys::readlinkat(&at.directory, at.name(), Vec::new())?.into_bytes()),
            _ => None,
        },
        rdev: if is_device { (sys::major(stat.st_rdev), sys::minor(stat.st_rdev)) } else { (0, 0) },
        content: match kind {
            Kind::Regular => Some(content_of(at, u64::try_from(stat.st_size).unwrap_or(0))?),
            _ => None,
        },
        xattrs: at.xattrs()?,
    })
}

fn content_of(at: &At, size: u64) -> io::Result<(u64, String)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = sys::openat(&at.directory, at.name(), flags, Mode::empty())?;
    let mark = content_mark(size, |offset, buffer| rustix::io::pread(&file, buffer, offset))?;
    Ok((size, mark))
}
