//! Walks a view and makes its tree.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::equal::{Equals, Twin};
use super::inode::{describe_at, describe_open, permissions, xattrs};
use super::{MaterializeError, MaterializeOptions, Materialized};
use crate::{Attr, Ino, Kind, Observer, View};

/// The name of the tree in the private directory.
pub(super) const TREE: &str = "tree";
/// The name of a directory next to it, which holds each inode that gets several names under its number. Links are made
/// from there, so no path has to be remembered.
const LINKS: &str = "links";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Makes the tree of `view` in the private directory `staging`.
pub(super) fn make(
    view: &View,
    staging: &Path,
    options: &MaterializeOptions,
    observer: &dyn Observer,
) -> Result<Materialized, MaterializeError> {
    let directory = |name: &str| -> io::Result<OwnedFd> {
        let path = staging.join(name);
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        Ok(rustix::fs::openat(CWD, &path, DIRECTORY, Mode::empty())?)
    };
    let links = directory(LINKS).map_err(MaterializeError::host(staging))?;
    let root = directory(TREE).map_err(MaterializeError::host(staging))?;
    let equals = Equals::new(view, options).map_err(MaterializeError::host(staging))?;
    let mut walk = Walk {
        view,
        options,
        observer,
        links,
        linked: HashSet::new(),
        equals,
        made: Materialized::default(),
        path: Vec::new(),
    };
    walk.run(root)?;
    Ok(walk.made)
}

struct Walk<'a> {
    view: &'a View,
    options: &'a MaterializeOptions,
    observer: &'a dyn Observer,
    links: OwnedFd,
    /// The inodes that have a name in `links`.
    linked: HashSet<Ino>,
    equals: Equals<'a>,
    made: Materialized,
    /// Directories from the root to the current one, each with the number of its entries that are done.
    path: Vec<(Ino, u64, Vec<u8>)>,
}

impl Walk<'_> {
    /// Walks the directories with one open descriptor, regardless of their depth, by returning through `..`.
    fn run(&mut self, root: OwnedFd) -> Result<(), MaterializeError> {
        let mut here = root;
        self.path.push((Ino::ROOT, 0, Vec::new()));
        while let Some((dir, done, _)) = self.path.last().cloned() {
            if self.observer.cancelled() {
                return Err(MaterializeError::Cancelled);
            }
            let below = self.fill(&here, dir, done)?;
            here = match below {
                Some(below) => below,
                None => self.leave(&here, dir)?,
            };
        }
        Ok(())
    }

    /// Makes the remaining entries of a directory, up to the first subdirectory, which it opens.
    fn fill(&mut self, here: &OwnedFd, dir: Ino, done: u64) -> Result<Option<OwnedFd>, MaterializeError> {
        for entry in self.view.entries(dir, done)? {
            if let Some((_, done, _)) = self.path.last_mut() {
                *done = entry.cookie;
            }
            if entry.kind == Kind::Directory {
                let opened = rustix::fs::mkdirat(here, entry.name, Mode::RWXU)
                    .and_then(|()| rustix::fs::openat(here, entry.name, DIRECTORY, Mode::empty()));
                let below = opened.map_err(|errno| self.failed(entry.name, errno.into()))?;
                self.path.push((entry.ino, 0, entry.name.to_vec()));
                self.equals.enter(entry.name);
                return Ok(Some(below));
            }
            self.add(here, entry.name, entry.ino)?;
        }
        Ok(None)
    }

    /// Sets the attributes of a finished directory, and opens its parent.
    fn leave(&mut self, here: &OwnedFd, dir: Ino) -> Result<OwnedFd, MaterializeError> {
        let attr = self.view.attr(dir)?;
        let xattrs = xattrs(self.view, dir, self.options, &mut self.made)?;
        self.note(&attr);
        // The parent is opened before the directory gets its mode, which may forbid that.
        let above = rustix::fs::openat(here, "..", DIRECTORY, Mode::empty());
        let above = above.map_err(|errno| self.failed(b".", errno.into()))?;
        describe_open(here.as_fd(), &attr, &xattrs, self.options).map_err(|cause| self.failed(b".", cause))?;
        self.path.pop();
        self.equals.leave();
        Ok(above)
    }

    fn note(&mut self, attr: &Attr) {
        self.made.entries += 1;
        self.made.set_ids_left_out += u64::from(permissions(attr, self.options) != attr.permissions);
    }

    fn add(&mut self, here: &OwnedFd, name: &[u8], ino: Ino) -> Result<(), MaterializeError> {
        if self.linked.contains(&ino) {
            self.link_of(here, name, ino)?;
            self.made.entries += 1;
            return Ok(());
        }
        let attr = self.view.attr(ino)?;
        let is_device = matches!(attr.kind, Kind::CharDevice | Kind::BlockDevice);
        if is_device && !self.options.keeps_privileges() {
            self.made.devices_left_out += 1;
            return Ok(());
        }
        let several = attr.nlink > 1;
        if attr.kind == Kind::Regular {
            if !self.link_twin(here, name, &attr)? {
                self.regular(here, name, &attr)?;
            }
        } else {
            let xattrs = xattrs(self.view, ino, self.options, &mut self.made)?;
            self.node(here, name, &attr)
                .and_then(|()| describe_at(here.as_fd(), name, &attr, &xattrs, self.options))
                .map_err(|cause| self.failed(name, cause))?;
        }
        self.note(&attr);
        if several || self.equals.wants_link(&attr) { self.keep_link(here, name, ino) } else { Ok(()) }
    }

    /// Makes the name a link to an equal file, if there is one that can have one more link.
    fn link_twin(&mut self, here: &OwnedFd, name: &[u8], attr: &Attr) -> Result<bool, MaterializeError> {
        let linked = match self.equals.twin(attr, name)? {
            None => return Ok(false),
            Some(Twin::Made(twin)) => rustix::fs::linkat(&self.links, link_name(twin), here, name, AtFlags::empty()),
            Some(Twin::Outside(directory)) => rustix::fs::linkat(&directory, name, here, name, AtFlags::empty()),
        };
        match linked {
            Ok(()) => {
                self.made.linked += 1;
                Ok(true)
            }
            Err(Errno::MLINK | Errno::XDEV) => Ok(false),
            Err(errno) => Err(self.failed(name, errno.into())),
        }
    }

    fn regular(&mut self, here: &OwnedFd, name: &[u8], attr: &Attr) -> Result<(), MaterializeError> {
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(here, name, create, Mode::RUSR | Mode::WUSR);
        let file = File::from(opened.map_err(|errno| self.failed(name, errno.into()))?);
        if attr.size > 0 {
            rustix::fs::ftruncate(&file, attr.size).map_err(|errno| self.failed(name, errno.into()))?;
            let (observer, made) = (self.observer, &mut self.made);
            let mut copied = |bytes| {
                made.bytes += bytes;
                observer.progress(bytes);
            };
            let outcome = self.view.copy_content(attr.ino, 0, attr.size, &file, 0, &mut copied);
            outcome.map_err(MaterializeError::of_copy(|| self.name_of(name)))?;
        }
        let xattrs = xattrs(self.view, attr.ino, self.options, &mut self.made)?;
        describe_open(file.as_fd(), attr, &xattrs, self.options).map_err(|cause| self.failed(name, cause))
    }

    fn node(&self, here: &OwnedFd, name: &[u8], attr: &Attr) -> io::Result<()> {
        let kind = match attr.kind {
            Kind::Symlink => {
                let target = self.view.readlink(attr.ino).map_err(io::Error::other)?;
                return Ok(rustix::fs::symlinkat(target, here, name)?);
            }
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            _ => FileType::Socket,
        };
        let device = rustix::fs::makedev(attr.rdev_major, attr.rdev_minor);
        Ok(rustix::fs::mknodat(here, name, kind, Mode::RUSR | Mode::WUSR, device)?)
    }

    fn keep_link(&mut self, here: &OwnedFd, name: &[u8], ino: Ino) -> Result<(), MaterializeError> {
        let kept = rustix::fs::linkat(here, name, &self.links, link_name(ino), AtFlags::empty());
        kept.map_err(|errno| self.failed(name, errno.into()))?;
        self.linked.insert(ino);
        self.equals.made(ino);
        Ok(())
    }

    fn link_of(&self, here: &OwnedFd, name: &[u8], ino: Ino) -> Result<(), MaterializeError> {
        let linked = rustix::fs::linkat(&self.links, link_name(ino), here, name, AtFlags::empty());
        linked.map_err(|errno| self.failed(name, errno.into()))
    }

    fn failed(&self, name: &[u8], cause: io::Error) -> MaterializeError {
        MaterializeError::Host { path: self.name_of(name), cause }
    }

    /// Returns the path of a name in the current directory, for messages.
    fn name_of(&self, name: &[u8]) -> String {
        let above = self.path.iter().skip(1).map(|(_, _, name)| name.as_slice());
        let parts: Vec<&[u8]> = above.chain([name]).collect();
        String::from_utf8_lossy(&parts.join(&b'/')).into_owned()
    }
}

fn link_name(ino: Ino) -> String {
    format!("{:x}", ino.get())
}
