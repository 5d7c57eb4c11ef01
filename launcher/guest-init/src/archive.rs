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

use rustix::fs::{Mode, OFlags};
use tar::{Builder, Entries, Entry, EntryType, Header};

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

    /// Packs what is at `path` and all below it, under `name`; an empty name stands for the root of the stream. What is
    /// gone by the time that it is reached is left out.
    ///
    /// # Errors
    /// Names the path that cannot be read, or says what the writer says.
    pub fn tree(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut todo = self.node(path, name)?;
        while let Some((path, name)) = todo.pop() {
            todo.extend(unless_gone(self.node(&path, &name))?.into_iter().flatten());
        }
        Ok(())
    }

    /// Packs one file or directory; gives what is in it, each path with its name, the last first.
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
    /// As for [`Packer::tree`]. Of a file that is gone nothing is in the stream.
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
        // All that may be gone comes before the first byte.
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
            // One that grows or shrinks meanwhile must not spoil what follows it.
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

/// What a look has found, or nothing where that is gone: others go on working in a tree while it is walked.
pub(crate) fn unless_gone<T>(look: io::Result<T>) -> io::Result<Option<T>> {
    match look {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        look => look.map(Some),
    }
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
    let mask = if trusted { 0 } else { PRIVILEGED };
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_mask(mask);
    let entries = archive.entries()?;
    match target {
        Target::Into(path) if path.is_dir() => unpack_below(path, entries),
        Target::Into(path) => {
            Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{}: it is not a directory", path.display())))
        }
        Target::At { path, name } if path.is_dir() => unpack_at(&path.join(name), entries, mask),
        Target::At { path, .. } => unpack_at(path, entries, mask),
    }
}

/// Unpacks a stream whose first entry is its root. Only a directory there may have more behind it: through a link that
/// the stream itself has put there, all else would go to where that leads.
fn unpack_at<R: Read>(root: &Path, mut entries: Entries<'_, R>, mask: u32) -> io::Result<()> {
    let Some(first) = entries.next() else { return Ok(()) };
    let mut first = first?;
    let kind = first.header().entry_type();
    if !is_root(&first)? {
        return Err(about(root)(damaged("the stream does not begin with its root")));
    }
    if !kind.is_dir() {
        // Not by a hard link, which would be to any file of this side.
        if !kind.is_file() && !kind.is_symlink() {
            return Err(about(root)(io::Error::other("devices and pipes are not copied")));
        }
        // One that is there is replaced and not written into: somebody may be running it.
        first.unpack(root).map_err(about(root))?;
        return match entries.next() {
            None => Ok(()),
            Some(_) => Err(about(root)(damaged("the stream goes on behind a root that is no directory"))),
        };
    }
    fs::create_dir_all(root).map_err(about(root))?;
    let directory = open_directory(root).map_err(about(root))?;
    let (mode, modified) = (first.header().mode()? & !mask, first.header().mtime()?);
    unpack_below(root, entries)?;
    // Its mode may forbid to write into it.
    set_modified(&directory, modified);
    directory.set_permissions(fs::Permissions::from_mode(mode)).map_err(about(root))
}

/// Unpacks entries into a directory that is there.
fn unpack_below<R: Read>(root: &Path, entries: Entries<'_, R>) -> io::Result<()> {
    // Their modes may forbid to write into them, so they get them last.
    let mut directories = Vec::new();
    for entry in entries {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            directories.push(entry);
        } else if is_root(&entry)? {
            return Err(about(root)(damaged("the stream has a root that is no directory")));
        } else {
            place(&mut entry, root)?;
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        if directory.unpack_in(root)? {
            // As it was unpacked: a leading slash does not lead out.
            let below: PathBuf =
                directory.path()?.components().filter(|part| matches!(part, Component::Normal(_))).collect();
            // One that cannot be opened keeps another time.
            if let Ok(opened) = open_directory(&root.join(below)) {
                set_modified(&opened, directory.header().mtime()?);
            }
        }
    }
    Ok(())
}

/// Whether an entry is the root of its stream.
fn is_root<R: Read>(entry: &Entry<'_, R>) -> io::Result<bool> {
    Ok(entry.path()?.components().all(|part| part == Component::CurDir))
}

fn damaged(cause: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// Opens a directory that is no link to one.
fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Gives a directory its time of change, in seconds since 1970: what was made in it meanwhile has changed that.
fn set_modified(directory: &File, seconds: u64) {
    let _ = directory.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
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

    /// Takes a stream and, once some bytes are in it, removes paths.
    struct Remover {
        stream: Vec<u8>,
        at: &'static [u8],
        doomed: Vec<PathBuf>,
    }

    impl Write for Remover {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.stream.extend(bytes);
            if self.stream.windows(self.at.len()).any(|window| window == self.at) {
                self.doomed.drain(..).for_each(|path| {
                    fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
                });
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_gone_when_it_is_reached_is_left_out() {
        let scratch = scratch("gone");
        fs::create_dir(scratch.join("directory")).unwrap();
        for (name, content) in [("a", "the first"), ("b", "b"), ("directory/inner", "x"), ("z", "the last")] {
            fs::write(scratch.join(name), content).unwrap();
        }
        let doomed = ["b", "directory"].map(|name| scratch.join(name)).into();
        let mut out = Remover { stream: Vec::new(), at: b"the first", doomed };
        let mut packer = Packer::new(&mut out, false);
        packer.tree(&scratch, Path::new("")).unwrap();
        packer.finish().unwrap();
        let mut archive = tar::Archive::new(out.stream.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("."), Path::new("a"), Path::new("z")]);
        assert!(Packer::new(io::sink(), false).tree(&scratch.join("b"), Path::new("")).is_err(), "the top is missed");
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn a_file_that_goes_between_look_and_packing_leaves_nothing_in_the_stream() {
        let scratch = scratch("between");
        let (first, second) = (scratch.join("first"), scratch.join("second"));
        fs::write(&first, "content").unwrap();
        fs::hard_link(&first, &second).unwrap();
        let found = fs::symlink_metadata(&first).unwrap();
        fs::remove_file(&first).unwrap();
        let mut bytes = Vec::new();
        let mut packer = Packer::new(&mut bytes, false);
        let xattrs = [("user.of".to_owned(), b"first".to_vec())];
        let gone = packer.entry(&first, Path::new("first"), &found, &xattrs);
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
        packer.entry(&second, Path::new("second"), &found, &[]).unwrap();
        packer.finish().unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"user.of"));
        let mut archive = tar::Archive::new(bytes.as_slice());
        assert!(archive.entries().unwrap().next().unwrap().unwrap().header().entry_type().is_file());
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

    /// A forged stream: each entry's type, name, and what it links to or holds.
    fn forged(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for &(kind, name, what) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o777);
            header.set_mtime(1);
            if matches!(kind, EntryType::Link | EntryType::Symlink) {
                header.set_size(0);
                header.set_link_name(what).unwrap();
            } else {
                header.set_size(what.len() as u64);
            }
            // Past the builder, which would refuse some of these names.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            let content = if header.size().unwrap() == 0 { "" } else { what };
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn nothing_leads_outside_of_the_target() {
        use EntryType::{Directory, Link, Regular, Symlink};
        let scratch = scratch("outside");
        let outside = scratch.join("outside");
        let precious = outside.join("precious");
        let (away, file) = (outside.to_str().unwrap(), precious.to_str().unwrap());
        let root = (Directory, "./", "");
        for (name, entries) in [
            ("link below", vec![root, (Symlink, "out", away), (Regular, "out/escaped", "evil")]),
            ("link below, of a directory", vec![root, (Symlink, "out", away), (Directory, "out/escaped/", "")]),
            ("root link", vec![(Symlink, ".", away), (Regular, "escaped", "evil")]),
            ("root link, then a directory", vec![(Symlink, ".", away), (Directory, ".", "")]),
            ("directory, then a root link", vec![root, (Symlink, ".", away), (Regular, "escaped", "evil")]),
            ("root hard link", vec![(Link, ".", file)]),
            ("hard link below", vec![root, (Link, "out", file)]),
            ("no root", vec![(Symlink, "out", away), (Regular, "out/escaped", "evil")]),
            ("file, then more", vec![(Regular, ".", "evil"), (Regular, "escaped", "evil")]),
            ("directory above", vec![root, (Directory, "../outside/", "")]),
            ("absolute directory", vec![root, (Directory, away, "")]),
        ] {
            let _ = fs::remove_dir_all(&scratch);
            fs::create_dir_all(&outside).unwrap();
            fs::create_dir(scratch.join("into")).unwrap();
            fs::write(&precious, "precious").unwrap();
            let before = fs::metadata(&outside).unwrap();
            let stream = forged(&entries);
            let done = unpack(stream.as_slice(), &Target::At { path: scratch.join("at"), name: "x".into() }, false);
            // What is skipped is no error.
            assert!(done.is_err() || name.contains("absolute") || name.contains("above"), "{name}");
            let _ = unpack(stream.as_slice(), &Target::Into(scratch.join("into")), true);
            let after = fs::metadata(&outside).unwrap();
            assert_eq!((before.mtime(), before.mode()), (after.mtime(), after.mode()), "{name}");
            assert_eq!(fs::metadata(&precious).unwrap().nlink(), 1, "{name}");
            assert_eq!(names_in(&outside).unwrap(), ["precious"], "{name}");
        }
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn a_link_at_the_target_is_not_followed_to_a_directory() {
        let scratch = scratch("link-there");
        fs::create_dir_all(scratch.join("outside")).unwrap();
        fs::create_dir(scratch.join("there")).unwrap();
        symlink("../outside", scratch.join("there/from")).unwrap();
        let stream = forged(&[(EntryType::Directory, "./", ""), (EntryType::Regular, "escaped", "evil")]);
        let target = Target::At { path: scratch.join("there"), name: "from".into() };
        assert!(unpack(stream.as_slice(), &target, false).is_err());
        assert!(names_in(&scratch.join("outside")).unwrap().is_empty());
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn a_link_alone_is_copied_as_one() {
        let scratch = scratch("link");
        symlink("/nowhere", scratch.join("from")).unwrap();
        let target = Target::At { path: scratch.join("to"), name: "from".into() };
        unpack(packed(&scratch.join("from"), "").as_slice(), &target, false).unwrap();
        assert_eq!(fs::read_link(scratch.join("to")).unwrap(), Path::new("/nowhere"));
        fs::remove_dir_all(scratch).unwrap();
    }
}
