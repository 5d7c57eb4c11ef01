//! Trees as tar streams, between a guest and its host: what `lamina cp`, `diff` and `commit` are made of.
//!
//! Packing gives GNU headers with PAX records for what they cannot hold: times before 1970 or with nanoseconds
//! (`mtime`), extended attributes (`SCHILY.xattr.*`). A file with several names is packed once; its other names are
//! hard links. Sockets are left out, as tar has none.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{Builder, Entry, EntryType, Header};

/// Bits that a file from a guest does not bring to its host: set-user-id and set-group-id.
const PRIVILEGED: u32 = 0o6000;

/// Packs files into one tar stream.
pub struct Packer<W: Write> {
    tar: Builder<W>,
    /// The name in the stream of each inode with several names.
    links: HashMap<(u64, u64), PathBuf>,
    /// Whether everything belongs to root in the stream.
    owned_by_root: bool,
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("links", &self.links).finish_non_exhaustive()
    }
}

impl<W: Write> Packer<W> {
    /// Packs into `out`. The owners are those of the files, or root where `owned_by_root`.
    pub fn new(out: W, owned_by_root: bool) -> Self {
        Self { tar: Builder::new(out), links: HashMap::new(), owned_by_root }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.flush()
    }

    /// Packs what is at `path` and all below it, under `name`; an empty name stands for the root of the stream.
    ///
    /// # Errors
    /// Names the path that cannot be read, or says what the writer says.
    pub fn tree(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut todo = vec![(path.to_owned(), name.to_owned())];
        while let Some((path, name)) = todo.pop() {
            let found = fs::symlink_metadata(&path).map_err(about(&path))?;
            self.entry(&path, &name, &found, &[])?;
            if found.is_dir() {
                let names = names_in(&path)?;
                todo.extend(names.into_iter().rev().map(|child| (path.join(&child), name.join(&child))));
            }
        }
        Ok(())
    }

    /// Packs one file, with these extended attributes.
    ///
    /// # Errors
    /// As for [`Packer::tree`].
    pub fn entry(
        &mut self,
        path: &Path,
        name: &Path,
        found: &Metadata,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        let kind = found.file_type();
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        if found.nlink() > 1 && !found.is_dir() {
            let first = self.links.entry((found.dev(), found.ino())).or_insert_with(|| name.to_owned()).clone();
            if first != name {
                let mut header = self.header(EntryType::Link, found);
                return self.tar.append_link(&mut header, name, &first);
            }
        }
        if kind.is_socket() {
            return Ok(());
        }
        self.records(found, xattrs)?;
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(about(path))?;
            let mut header = self.header(EntryType::Symlink, found);
            return self.tar.append_link(&mut header, name, &target);
        }
        let entry_type = match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_fifo() => EntryType::Fifo,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            () => EntryType::Regular,
        };
        let mut header = self.header(entry_type, found);
        if entry_type != EntryType::Regular {
            return self.tar.append_data(&mut header, name, io::empty());
        }
        let file = File::open(path).map_err(about(path))?;
        header.set_size(found.len());
        // One that grows or shrinks meanwhile must not spoil what follows it.
        self.tar.append_data(&mut header, name, file.chain(io::repeat(0)).take(found.len()))
    }

    /// Packs an empty file of root's, as whiteouts are.
    ///
    /// # Errors
    /// What the writer says.
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

/// The time of change as PAX has it; of a time before 1970 the fraction counts back from the second.
fn pax_time(found: &Metadata) -> Vec<u8> {
    let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}").into_bytes();
    }
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds).into_bytes()
}

/// The names in a directory, in byte order.
///
/// # Errors
/// Names the directory that cannot be read.
pub fn names_in(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).map_err(about(directory))?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>().map_err(about(directory))?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

pub(crate) fn about(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into this directory, each entry under its own name.
    Into(PathBuf),
    /// Its root to this path, or, where that is a directory already, into it under `name`: as cp(1) does.
    At {
        /// The path.
        path: PathBuf,
        /// The last component of where the root came from.
        name: PathBuf,
    },
}

/// Unpacks a stream. Nothing in it leads outside of the target, whatever its names and links say. What is made belongs
/// to this process's user; with `trusted` the set-user-id bits are kept too.
///
/// # Errors
/// The stream is damaged or something cannot be made; what was made before stays.
pub fn unpack(stream: impl Read, target: &Target, trusted: bool) -> io::Result<()> {
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_mask(if trusted { 0 } else { PRIVILEGED });
    let root = match target {
        Target::Into(path) if path.is_dir() => path.clone(),
        Target::Into(path) => {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{}: it is not a directory", path.display()),
            ));
        }
        Target::At { path, name } if path.is_dir() => path.join(name),
        Target::At { path, .. } => path.clone(),
    };
    // Their modes may forbid to write into them, so they get them last.
    let mut directories = Vec::new();
    let mut root_is = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let is_root = entry.path()?.components().all(|part| part == Component::CurDir);
        let kind = entry.header().entry_type();
        if is_root && kind.is_dir() && *target != Target::Into(root.clone()) {
            fs::create_dir_all(&root).map_err(about(&root))?;
            let mode = entry.header().mode()? & !if trusted { 0 } else { PRIVILEGED };
            root_is = Some((mode, entry.header().mtime()?));
        } else if is_root && !kind.is_dir() {
            // One that is there is replaced and not written into: somebody may be running it.
            if let Err(error) = entry.unpack(&root) {
                return Err(about(&root)(error));
            }
        } else if kind.is_dir() {
            directories.push(entry);
        } else {
            place(&mut entry, &root)?;
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        if directory.unpack_in(&root)? {
            set_modified(&root.join(directory.path()?), directory.header().mtime()?);
        }
    }
    let Some((mode, modified)) = root_is else { return Ok(()) };
    set_modified(&root, modified);
    fs::set_permissions(&root, fs::Permissions::from_mode(mode)).map_err(about(&root))
}

/// Gives a directory its time of change, in seconds since 1970: what was made in it meanwhile has changed that. One that
/// cannot be opened keeps another.
fn set_modified(directory: &Path, seconds: u64) {
    if let Ok(directory) = File::open(directory) {
        let _ = directory.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    }
}

fn place<R: Read>(entry: &mut Entry<'_, R>, root: &Path) -> io::Result<()> {
    if matches!(entry.header().entry_type(), EntryType::Char | EntryType::Block | EntryType::Fifo) {
        let name = entry.path()?.display().to_string();
        eprintln!("lamina: {name}: devices and pipes are not copied");
        return Ok(());
    }
    entry.unpack_in(root).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn packed(path: &Path, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut packer = Packer::new(&mut bytes, false);
        packer.tree(path, Path::new(name)).unwrap();
        packer.finish().unwrap();
        bytes
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lamina-archive-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let scratch = scratch("tree");
        let from = scratch.join("from");
        fs::create_dir_all(from.join("sub/closed")).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        fs::hard_link(from.join("sub/file"), from.join("sub/other")).unwrap();
        symlink("file", from.join("sub/link")).unwrap();
        fs::write(from.join("sub/closed/inner"), "x").unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("sub/closed"), fs::Permissions::from_mode(0o555)).unwrap();
        let to = scratch.join("to");
        unpack(packed(&from, "").as_slice(), &Target::At { path: to.clone(), name: "from".into() }, true).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(fs::read_to_string(to.join("sub/other")).unwrap(), "content");
        assert_eq!(fs::metadata(to.join("sub/file")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(to.join("sub/link")).unwrap(), Path::new("file"));
        assert_eq!((mode(to.join("sub/file")), mode(to.join("sub/closed"))), (0o4751, 0o555));
        let modified = |root: &Path| fs::metadata(root.join("sub/file")).unwrap().modified().unwrap();
        let difference = modified(&from).duration_since(modified(&to)).unwrap_or_default();
        assert!(difference.as_secs() < 1);
        // To a directory that is there it goes into it, and what a guest may not be trusted with is left behind.
        unpack(packed(&from, "").as_slice(), &Target::At { path: to.clone(), name: "again".into() }, false).unwrap();
        assert_eq!(mode(to.join("again/sub/file")), 0o751);
        fs::set_permissions(to.join("sub/closed"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn one_file_goes_to_a_path_or_into_a_directory() {
        let scratch = scratch("file");
        let from = scratch.join("from");
        fs::write(&from, "content").unwrap();
        let at = |path: &str| Target::At { path: scratch.join(path), name: "from".into() };
        fs::create_dir(scratch.join("there")).unwrap();
        for (target, expected) in [(at("new"), "new"), (at("there"), "there/from")] {
            unpack(packed(&from, "").as_slice(), &target, false).unwrap();
            assert_eq!(fs::read_to_string(scratch.join(expected)).unwrap(), "content");
        }
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn nothing_leads_outside_of_the_target() {
        let scratch = scratch("outside");
        let target = scratch.join("target");
        fs::create_dir(&target).unwrap();
        let mut bytes = Vec::new();
        let mut builder = Builder::new(&mut bytes);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "out", "..").unwrap();
        let mut header = Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        builder.append_data(&mut header, "out/escaped", b"evil".as_slice()).unwrap();
        builder.finish().unwrap();
        drop(builder);
        let _ = unpack(bytes.as_slice(), &Target::Into(target), true);
        assert!(!scratch.join("escaped").exists());
        fs::remove_dir_all(scratch).unwrap();
    }
}
