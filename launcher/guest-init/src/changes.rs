//! What a machine has written to its root: the upper directory of its overlay, read as changes of the tree below it.
//!
//! overlayfs says a deletion by a character device 0:0 under the deleted name, and that a directory hides the one below
//! it by the attribute `trusted.overlay.opaque` with the value `y`
//! (`Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories").

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::archive::{Packer, about, names_in, unless_gone};

/// The attribute of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// What begins the names of attributes that are overlayfs's own.
const OVERLAY: &[u8] = b"trusted.overlay.";
/// The OCI name of a deletion begins so (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &str = ".wh.";
/// The OCI name of the file that makes its directory hide the one below.
const OPAQUE_WHITEOUT: &str = ".wh..wh..opq";

/// An upper directory with what belongs to it, and the tree that it lies over.
#[derive(Clone, Debug)]
pub struct Stack {
    place: PathBuf,
    upper: PathBuf,
    lower: PathBuf,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not in the tree below.
    Added,
    /// It is in both.
    Changed,
    /// It is in the tree below and no longer seen.
    Deleted,
}

impl Kind {
    /// The letter for it: `A`, `C` or `D`.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::Added => b'A',
            Self::Changed => b'C',
            Self::Deleted => b'D',
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: Kind,
    /// The path without a leading slash.
    pub path: PathBuf,
    /// It is a directory of the upper tree.
    pub directory: bool,
    /// It is one that hides the one below it.
    pub opaque: bool,
    /// It is hidden by such a directory, and said so only for people: a layer needs no entry for it.
    pub implied: bool,
}

impl Stack {
    /// The writes in `place` (`upper`, `own`) over the tree `lower`.
    #[must_use]
    pub fn new(place: &Path, lower: &Path) -> Self {
        Self { place: place.to_owned(), upper: place.join("upper"), lower: lower.to_owned() }
    }

    /// All changes, each directory before what is in it, in byte order of the names. What is gone by the time that it
    /// is reached is left out.
    ///
    /// # Errors
    /// Names the path that cannot be read.
    pub fn changes(&self) -> io::Result<Vec<Change>> {
        let own = Own::read(&self.place)?;
        let mut found = Vec::new();
        // Reversed, so that the first name is taken first.
        let mut todo: Vec<PathBuf> = names_in(&self.upper)?.into_iter().rev().map(PathBuf::from).collect();
        while let Some(path) = todo.pop() {
            let upper = self.upper.join(&path);
            let Some(meta) = unless_gone(fs::symlink_metadata(&upper).map_err(about(&upper)))? else { continue };
            let below = fs::symlink_metadata(self.lower.join(&path)).ok();
            if is_whiteout(&meta) {
                if below.is_some() {
                    found.push(Change { kind: Kind::Deleted, path, directory: false, opaque: false, implied: false });
                }
                continue;
            }
            if own.is(&path, &meta) && !meta.is_dir() {
                continue;
            }
            let kind = if below.is_some() { Kind::Changed } else { Kind::Added };
            let opaque = meta.is_dir() && unless_gone(is_opaque(&upper))? == Some(true);
            found.push(Change { kind, path: path.clone(), directory: meta.is_dir(), opaque, implied: false });
            if !meta.is_dir() {
                continue;
            }
            if opaque && below.is_some_and(|below| below.is_dir()) {
                found.extend(self.hidden(&path)?);
            }
            let names = unless_gone(names_in(&upper))?.unwrap_or_default();
            todo.extend(names.into_iter().rev().map(|name| path.join(name)));
        }
        own.drop_empty(&mut found);
        Ok(found)
    }

    /// What an opaque directory hides of the one below.
    fn hidden(&self, directory: &Path) -> io::Result<Vec<Change>> {
        let names = names_in(&self.lower.join(directory))?.into_iter().map(|name| directory.join(name));
        let hidden = names.filter(|path| fs::symlink_metadata(self.upper.join(path)).is_err());
        Ok(hidden
            .map(|path| Change { kind: Kind::Deleted, path, directory: false, opaque: false, implied: true })
            .collect())
    }

    /// Writes the changes for a program: for each its letter, a slash, the path, and a NUL byte.
    ///
    /// # Errors
    /// As for [`Stack::changes`], or what the writer says.
    pub fn list(&self, mut out: impl Write) -> io::Result<()> {
        for change in self.changes()? {
            out.write_all(&[change.kind.letter(), b'/'])?;
            out.write_all(change.path.as_os_str().as_bytes())?;
            out.write_all(&[0])?;
        }
        out.flush()
    }

    /// Packs the changes as an OCI layer.
    ///
    /// # Errors
    /// As for [`Stack::changes`], or what the writer says.
    pub fn pack(&self, out: impl Write) -> io::Result<()> {
        let mut packer = Packer::new(out, false);
        for change in self.changes()?.into_iter().filter(|change| !change.implied) {
            if change.kind == Kind::Deleted {
                packer.marker(&whiteout(&change.path))?;
                continue;
            }
            unless_gone(self.pack_one(&mut packer, &change))?;
        }
        packer.finish()
    }

    /// Packs what is in the upper tree.
    fn pack_one(&self, packer: &mut Packer<impl Write>, change: &Change) -> io::Result<()> {
        let path = self.upper.join(&change.path);
        let meta = fs::symlink_metadata(&path).map_err(about(&path))?;
        if is_whiteout(&meta) {
            // Deleted meanwhile.
            return packer.marker(&whiteout(&change.path));
        }
        packer.entry(&path, &change.path, &meta, &xattrs(&path)?)?;
        if change.opaque {
            packer.marker(&change.path.join(OPAQUE_WHITEOUT))?;
        }
        Ok(())
    }
}

/// Reads what [`Stack::list`] wrote.
#[must_use]
pub fn parse_list(bytes: &[u8]) -> Vec<(char, PathBuf)> {
    let records = bytes.split(|&byte| byte == 0).filter(|record| !record.is_empty());
    records
        .filter_map(|record| record.split_first())
        .map(|(&letter, path)| (char::from(letter), PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))))
        .collect()
}

fn whiteout(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(WHITEOUT);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(directory: &Path) -> io::Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::lgetxattr(directory, OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(false),
        // Longer than the value that there is.
        Err(rustix::io::Errno::RANGE) => Ok(false),
        Err(errno) => Err(about(directory)(errno.into())),
    }
}

/// The attributes that are the file's and not overlayfs's.
fn xattrs(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let failed = |errno: rustix::io::Errno| about(path)(errno.into());
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(failed(errno)),
    };
    let names = names[..length].split(|&byte| byte == 0);
    let mut found = Vec::new();
    for name in names.filter(|name| !name.is_empty() && !name.starts_with(OVERLAY)) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).map_err(failed)?;
        value.truncate(length);
        found.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    Ok(found)
}

/// What init itself put into an upper directory: its paths, each with a mark by which a change is seen. In the file
/// `own` each is `MARK PATH` and a NUL byte.
#[derive(Debug)]
pub struct Own(HashMap<PathBuf, String>);

impl Own {
    const FILE: &str = "own";

    /// Notes what is in the upper directory now, if nothing has been noted before.
    ///
    /// # Errors
    /// It cannot be read, or the note not be written.
    pub fn note(stack: &Stack) -> io::Result<()> {
        let file = stack.place.join(Self::FILE);
        if file.exists() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for change in stack.changes()? {
            let path = stack.upper.join(&change.path);
            let meta = fs::symlink_metadata(&path).map_err(about(&path))?;
            lines.extend(format!("{} ", mark(&meta)).into_bytes());
            lines.extend(change.path.as_os_str().as_bytes());
            lines.push(0);
        }
        fs::write(&file, lines).map_err(about(&file))
    }

    fn read(place: &Path) -> io::Result<Self> {
        let file = place.join(Self::FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(about(&file)(error)),
        };
        let lines = bytes.split(|&byte| byte == 0).filter_map(|line| {
            let space = line.iter().position(|&byte| byte == b' ')?;
            let mark = std::str::from_utf8(&line[..space]).ok()?.to_owned();
            Some((PathBuf::from(std::ffi::OsString::from_vec(line[space + 1..].to_vec())), mark))
        });
        Ok(Self(lines.collect()))
    }

    /// Whether a path is as init left it.
    fn is(&self, path: &Path, meta: &Metadata) -> bool {
        self.0.get(path).is_some_and(|noted| meta.is_dir() || *noted == mark(meta))
    }

    /// Leaves out the directories that init made and nobody has put anything into.
    fn drop_empty(&self, changes: &mut Vec<Change>) {
        let mut kept: Vec<Change> = Vec::with_capacity(changes.len());
        // From the end, so that a directory comes behind what is in it.
        for change in changes.drain(..).rev() {
            let is_used = kept.last().is_some_and(|last| last.path.starts_with(&change.path));
            if is_used || !change.directory || !self.0.contains_key(&change.path) {
                kept.push(change);
            }
        }
        kept.reverse();
        *changes = kept;
    }
}

/// Time of change, inode and size: a file that is written anew within a tick of the clock differs at least in one.
fn mark(meta: &Metadata) -> String {
    format!("{}.{:09},{},{}", meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place and a lower tree in memory: the tests need what only root may do there.
    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            let scratch = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(scratch.path("place/upper")).unwrap();
            fs::create_dir_all(scratch.path("lower/dir/sub")).unwrap();
            for file in ["lower/gone", "lower/kept", "lower/dir/old", "lower/dir/sub/deep"] {
                fs::write(scratch.path(file), "below").unwrap();
            }
            scratch
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn stack(&self) -> Stack {
            Stack::new(&self.path("place"), &self.path("lower"))
        }

        fn whiteout(&self, name: &str) {
            let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
            rustix::fs::mknodat(rustix::fs::CWD, self.path("place/upper").join(name), kind, mode, 0).unwrap();
        }

        fn listed(&self) -> Vec<String> {
            let mut bytes = Vec::new();
            self.stack().list(&mut bytes).unwrap();
            parse_list(&bytes).into_iter().map(|(letter, path)| format!("{letter} {}", path.display())).collect()
        }
    }

    #[test]
    fn what_is_added_changed_and_deleted_is_told_apart() {
        let scratch = Scratch::new();
        fs::write(scratch.path("place/upper/kept"), "above").unwrap();
        fs::create_dir(scratch.path("place/upper/new")).unwrap();
        fs::write(scratch.path("place/upper/new/file"), "x").unwrap();
        scratch.whiteout("gone");
        scratch.whiteout("never-was");
        assert_eq!(scratch.listed(), ["D /gone", "C /kept", "A /new", "A /new/file"]);
    }

    #[test]
    fn a_directory_that_was_made_anew_hides_the_old_one() {
        let scratch = Scratch::new();
        let directory = scratch.path("place/upper/dir");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("old"), "above").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&directory, OPAQUE, b"y", flags).unwrap();
        assert_eq!(scratch.listed(), ["C /dir", "D /dir/sub", "C /dir/old"]);
        let mut bytes = Vec::new();
        scratch.stack().pack(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["dir", "dir/.wh..wh..opq", "dir/old"]);
    }

    #[test]
    fn a_tree_in_which_others_work_is_walked_to_its_end() {
        let scratch = Scratch::new();
        let busy = scratch.path("place/upper/busy");
        fs::create_dir(&busy).unwrap();
        fs::write(scratch.path("place/upper/zoo"), "x").unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let work = || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    for directory in ["a", "b", "c"].map(|name| busy.join(name)) {
                        fs::create_dir(&directory).unwrap();
                        fs::write(directory.join("file"), "x").unwrap();
                        fs::hard_link(directory.join("file"), directory.join("other")).unwrap();
                        fs::remove_dir_all(&directory).unwrap();
                    }
                }
            };
            scope.spawn(work);
            let looked: Vec<io::Result<()>> = (0..1000)
                .map(|_| {
                    assert!(scratch.stack().changes()?.iter().any(|change| change.path == Path::new("zoo")));
                    scratch.stack().pack(io::sink())
                })
                .collect();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            let failed: Vec<_> = looked.into_iter().filter_map(Result::err).collect();
            assert!(failed.is_empty(), "{failed:?}");
        });
    }

    #[test]
    fn what_init_made_is_no_change_until_somebody_changes_it() {
        let scratch = Scratch::new();
        let upper = scratch.path("place/upper");
        fs::create_dir_all(upper.join("run/lamina")).unwrap();
        fs::create_dir(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/hosts"), "init").unwrap();
        Own::note(&scratch.stack()).unwrap();
        assert!(scratch.listed().is_empty(), "{:?}", scratch.listed());
        fs::write(upper.join("run/pid"), "1").unwrap();
        Own::note(&scratch.stack()).unwrap();
        assert_eq!(scratch.listed(), ["A /run", "A /run/pid"]);
        fs::remove_file(upper.join("etc/hosts")).unwrap();
        fs::write(upper.join("etc/hosts"), "another").unwrap();
        assert_eq!(scratch.listed(), ["A /etc", "A /etc/hosts", "A /run", "A /run/pid"]);
    }
}
