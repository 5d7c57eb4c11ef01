//! What a machine has written to its root: the upper directory of its overlay, read as changes of the tree below it.
//!
//! overlayfs marks a deletion with a character device 0:0 under the deleted name, and a directory that hides the one
//! below it with the attribute `trusted.overlay.opaque` (`user.overlay.opaque` in a user namespace), whose value is `y` (`Documentation/filesystems/overlayfs.rst`,
//! "whiteouts and opaque directories").

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

mod own;
#[cfg(test)]
mod tests;

pub(crate) use own::Own;

use guest_protocol::archive::{Packer, about, names_in, unless_gone};
use guest_protocol::changes::{Kind, write_entry};

/// The file beside an upper directory that names its format, if that is not the one of a VM.
const FORMAT: &str = "format";

/// Who wrote an upper directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// The kernel's overlayfs in a VM.
    Trusted,
    /// The kernel's overlayfs in a user namespace (mount option `userxattr`).
    User,
    /// fuse-overlayfs, which also marks deletions by files that are named as in OCI layers.
    Fuse,
}

impl Format {
    fn of(place: &Path) -> Self {
        match fs::read_to_string(place.join(FORMAT)).as_deref() {
            Ok("overlay") => Self::User,
            Ok("fuse-overlayfs") => Self::Fuse,
            _ => Self::Trusted,
        }
    }

    /// Returns the prefix of the names of the writer's own attributes.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
            Self::Fuse => "user.fuseoverlayfs.",
        }
    }
}

/// The prefix of the OCI name of a deletion (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &str = ".wh.";
/// The OCI name of the file that makes its directory hide the one below.
const OPAQUE_WHITEOUT: &str = ".wh..wh..opq";

/// An upper directory with what belongs to it, and the tree below it.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    place: PathBuf,
    upper: PathBuf,
    lower: PathBuf,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// What happened.
    pub(crate) kind: Kind,
    /// The path without a leading slash.
    pub(crate) path: PathBuf,
    /// It is a directory of the upper tree.
    pub(crate) directory: bool,
    /// It is one that hides the one below it.
    pub(crate) opaque: bool,
    /// It is hidden by such a directory. Listed for people only: a layer needs no entry for it.
    pub(crate) implied: bool,
}

impl Stack {
    /// The writes in `place` (`upper`, `own`) over the tree `lower`.
    #[must_use]
    pub(crate) fn new(place: &Path, lower: &Path) -> Self {
        Self { place: place.to_owned(), upper: place.join("upper"), lower: lower.to_owned() }
    }

    /// Returns all changes, each directory before its entries, in byte order of the names. Leaves out what is deleted
    /// before it is reached.
    ///
    /// # Errors
    /// Names the path that cannot be read.
    pub(crate) fn changes(&self) -> io::Result<Vec<Change>> {
        let own = Own::read(&self.place)?.unwrap_or_default();
        let format = Format::of(&self.place);
        let mut found = Vec::new();
        // Reversed, so that the first name is taken first.
        let mut todo: Vec<PathBuf> = names_in(&self.upper)?.into_iter().rev().map(PathBuf::from).collect();
        while let Some(path) = todo.pop() {
            let upper = self.upper.join(&path);
            let Some(meta) = unless_gone(fs::symlink_metadata(&upper).map_err(about(&upper)))? else { continue };
            let below = fs::symlink_metadata(self.lower.join(&path)).ok();
            if let Some(marked) = marked_deletion(&path, format) {
                let is_there = |marked: &Path| fs::symlink_metadata(self.lower.join(marked)).is_ok();
                found.extend(marked.filter(|marked| is_there(marked)).map(|path| Change {
                    kind: Kind::Deleted,
                    path,
                    directory: false,
                    opaque: false,
                    implied: false,
                }));
                continue;
            }
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
            let opaque = meta.is_dir() && unless_gone(is_opaque(&upper, format))? == Some(true);
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

    /// Whether a user has put something at this path, which has no leading slash, at an earlier start.
    ///
    /// # Errors
    /// What init put there itself cannot be read.
    pub(crate) fn is_of_user(&self, path: &Path) -> io::Result<bool> {
        let Some(own) = Own::read(&self.place)? else { return Ok(false) };
        let found = fs::symlink_metadata(self.upper.join(path));
        Ok(found.is_ok_and(|found| !is_whiteout(&found) && !own.is(path, &found)))
    }

    /// Returns what an opaque directory hides in the one below it.
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
    /// As for [`Stack::changes`], or the writer's error.
    pub(crate) fn list(&self, mut out: impl Write) -> io::Result<()> {
        for change in self.changes()? {
            write_entry(&mut out, change.kind, &change.path)?;
        }
        out.flush()
    }

    /// Packs the changes as an OCI layer.
    ///
    /// # Errors
    /// As for [`Stack::changes`], or the writer's error.
    pub(crate) fn pack(&self, out: impl Write) -> io::Result<()> {
        let mut packer = Packer::new(out).padding();
        for change in self.changes()?.into_iter().filter(|change| !change.implied) {
            if change.kind == Kind::Deleted {
                packer.marker(&whiteout(&change.path))?;
                continue;
            }
            unless_gone(self.pack_one(&mut packer, &change))?;
        }
        packer.finish().map(drop)
    }

    /// Packs what is in the upper tree.
    fn pack_one(&self, packer: &mut Packer<impl Write>, change: &Change) -> io::Result<()> {
        let path = self.upper.join(&change.path);
        let meta = fs::symlink_metadata(&path).map_err(about(&path))?;
        if is_whiteout(&meta) {
            // Deleted in the meantime.
            return packer.marker(&whiteout(&change.path));
        }
        packer.entry(&path, &change.path, &meta, &xattrs(&path, Format::of(&self.place))?)?;
        if change.opaque {
            packer.marker(&change.path.join(OPAQUE_WHITEOUT))?;
        }
        Ok(())
    }
}

fn whiteout(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(WHITEOUT);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Returns the path that a file marks as deleted, if the file is there for nothing else. The one that makes its directory
/// opaque marks none.
fn marked_deletion(path: &Path, format: Format) -> Option<Option<PathBuf>> {
    let name = path.file_name()?.to_str().filter(|_| format == Format::Fuse)?;
    let marked = name.strip_prefix(WHITEOUT)?;
    Some((name != OPAQUE_WHITEOUT).then(|| path.with_file_name(marked)))
}

/// Returns whether a directory hides the one below it: its attribute `opaque` is `y`.
fn is_opaque(directory: &Path, format: Format) -> io::Result<bool> {
    if format == Format::Fuse && directory.join(OPAQUE_WHITEOUT).exists() {
        return Ok(true);
    }
    let mut value = [0; 8];
    match rustix::fs::lgetxattr(directory, format!("{}opaque", format.prefix()), &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(false),
        // The value is longer than `y`.
        Err(rustix::io::Errno::RANGE) => Ok(false),
        Err(errno) => Err(about(directory)(errno.into())),
    }
}

/// The attributes that are the file's and not overlayfs's.
fn xattrs(path: &Path, format: Format) -> io::Result<Vec<(String, Vec<u8>)>> {
    let failed = |errno: rustix::io::Errno| about(path)(errno.into());
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(failed(errno)),
    };
    let names = names[..length].split(|&byte| byte == 0);
    let mut found = Vec::new();
    for name in names.filter(|name| !name.is_empty() && !name.starts_with(format.prefix().as_bytes())) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).map_err(failed)?;
        value.truncate(length);
        found.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    Ok(found)
}
