//! Unpacks a stream into a tree.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tar::{Entries, Entry, EntryType};

use super::about;
use super::guard::Guard;

/// Mode bits that a file from a guest does not keep on its host: set-user-id and set-group-id.
const PRIVILEGED: u32 = 0o6000;

/// The most directories of a stream. They are kept in memory until the end.
const MOST_DIRECTORIES: usize = 1_000_000;

/// Where a stream is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Into this directory, each entry under its own name.
    Into(PathBuf),
    /// Its root at this path, or, if that is already a directory, in it under `name`: as cp(1) does.
    At {
        /// The path.
        path: PathBuf,
        /// The last component of where the root came from.
        name: PathBuf,
    },
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The number of names that are not directories.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Copied {
    fn count<R: Read>(&mut self, entry: &Entry<'_, R>) {
        self.files += 1;
        self.bytes += entry.size();
    }
}

/// Unpacks a stream. Nothing is written outside the destination, regardless of the names and links in the stream. The files
/// belong to this process's user. With `trusted`, the set-user-id and set-group-id bits are kept; without it, a stream
/// that would take a lot of memory is refused.
///
/// # Errors
/// The stream is damaged or a file cannot be made. What was already unpacked stays.
pub fn unpack(stream: impl Read, destination: &Destination, trusted: bool) -> io::Result<Copied> {
    unpack_as(stream, destination, trusted, false)
}

/// Unpacks as [`unpack`] does, and gives the files the owners of the stream. The process must be root.
///
/// # Errors
/// As for [`unpack`], or an owner cannot be set.
pub fn unpack_with_owners(stream: impl Read, destination: &Destination, trusted: bool) -> io::Result<Copied> {
    unpack_as(stream, destination, trusted, true)
}

fn unpack_as(stream: impl Read, destination: &Destination, trusted: bool, owners: bool) -> io::Result<Copied> {
    if trusted {
        unpack_stream(stream, destination, Kept { mask: 0, owners })
    } else {
        unpack_stream(Guard::new(stream), destination, Kept { mask: PRIVILEGED, owners })
    }
}

/// What the files keep of what the stream says.
#[derive(Clone, Copy)]
struct Kept {
    /// Mode bits that they do not keep.
    mask: u32,
    owners: bool,
}

fn unpack_stream(stream: impl Read, destination: &Destination, kept: Kept) -> io::Result<Copied> {
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(kept.owners);
    archive.set_mask(kept.mask);
    let entries = archive.entries()?;
    match destination {
        Destination::Into(path) if path.is_dir() => unpack_below(path, entries),
        Destination::Into(path) => {
            Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{}: not a directory", path.display())))
        }
        Destination::At { path, name } if path.is_dir() => unpack_at(&path.join(name), entries, kept),
        Destination::At { path, .. } => unpack_at(path, entries, kept),
    }
}

/// Unpacks a stream whose first entry is its root. More entries may follow only if the root is a directory: if it were
/// a link from the stream, they would be written wherever the link leads.
fn unpack_at<R: Read>(root: &Path, mut entries: Entries<'_, R>, kept: Kept) -> io::Result<Copied> {
    let mut copied = Copied::default();
    let Some(first) = entries.next() else { return Ok(copied) };
    let mut first = first?;
    let kind = first.header().entry_type();
    if !is_root(&first)? {
        return Err(about(root)(damaged("the stream does not begin with its root")));
    }
    if !kind.is_dir() {
        // A hard link is refused, because it could lead to any file on this side.
        if !kind.is_file() && !kind.is_symlink() {
            return Err(about(root)(io::Error::other("devices and pipes are not copied")));
        }
        refuse_special(root)?;
        // An existing file is replaced instead of written into, because it may be a running program.
        first.unpack(root).map_err(about(root))?;
        copied.count(&first);
        return match entries.next() {
            None => Ok(copied),
            Some(_) => Err(about(root)(damaged("the stream continues after a root that is not a directory"))),
        };
    }
    fs::create_dir_all(root).map_err(about(root))?;
    let directory = open_directory(root).map_err(about(root))?;
    let (mode, modified) = (first.header().mode()? & !kept.mask, first.header().mtime()?);
    let owner = (first.header().uid()?, first.header().gid()?);
    let copied = unpack_below(root, entries)?;
    if kept.owners {
        let id = |id: u64| u32::try_from(id).map_err(|_| damaged("an owner is not a number of 32 bits"));
        fchown(&directory, Some(id(owner.0)?), Some(id(owner.1)?)).map_err(about(root))?;
    }
    // The mode is set last, because it may forbid writing into the directory.
    set_modified(&directory, modified);
    directory.set_permissions(fs::Permissions::from_mode(mode)).map_err(about(root))?;
    Ok(copied)
}

/// Unpacks entries into an existing directory.
fn unpack_below<R: Read>(root: &Path, entries: Entries<'_, R>) -> io::Result<Copied> {
    let mut copied = Copied::default();
    // Directories get their modes last, because these may forbid writing into them.
    let mut directories = Vec::new();
    for entry in entries {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            if directories.len() >= MOST_DIRECTORIES {
                return Err(about(root)(damaged("the stream has more than a million directories")));
            }
            directories.push(entry);
        } else if is_root(&entry)? {
            return Err(about(root)(damaged("the stream has a root that is not a directory")));
        } else if place(&mut entry, root)? {
            copied.count(&entry);
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        if directory.unpack_in(root)? {
            // The path as it was unpacked: a leading slash is ignored.
            let below: PathBuf =
                directory.path()?.components().filter(|part| matches!(part, Component::Normal(_))).collect();
            // A directory that cannot be opened does not get its time.
            if let Ok(opened) = open_directory(&root.join(below)) {
                set_modified(&opened, directory.header().mtime()?);
            }
        }
    }
    Ok(copied)
}

/// Whether an entry is the root of its stream.
fn is_root<R: Read>(entry: &Entry<'_, R>) -> io::Result<bool> {
    Ok(entry.path()?.components().all(|part| part == Component::CurDir))
}

fn damaged(cause: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// Opens a directory, but not through a symbolic link.
fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Sets the time of modification of a directory, in seconds since 1970, because files made in it have changed the time.
fn set_modified(directory: &File, seconds: u64) {
    let _ = directory.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
}

/// Fails if there is a device or a pipe, or a link to one such as `/dev/stdout`: replacing it with a file would break
/// the programs that use it.
fn refuse_special(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() && !there.is_dir() => {
            Err(about(path)(io::Error::other("a device or a pipe is there; it is not replaced")))
        }
        _ => Ok(()),
    }
}

/// Unpacks an entry that is not a directory, if it can be copied and has a place below the root.
fn place<R: Read>(entry: &mut Entry<'_, R>, root: &Path) -> io::Result<bool> {
    if matches!(entry.header().entry_type(), EntryType::Char | EntryType::Block | EntryType::Fifo) {
        let name = entry.path()?.display().to_string();
        // The name is from a guest, and this process may write to a terminal.
        eprintln!("lamina: {}: devices and pipes are not copied", name.escape_debug());
        return Ok(false);
    }
    let below: PathBuf = entry.path()?.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    refuse_special(&root.join(below))?;
    entry.unpack_in(root)
}
