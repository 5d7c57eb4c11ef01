//! Opens, reads and creates the regular files of a store.
//!
//! A store may be one that another user can write. So nothing here follows a symbolic link to a file, waits for the other
//! end of a pipe, opens a device as a file, or reads more than a limit.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::geteuid;

/// The most bytes of a document: a manifest, a config, a name, a lease and the like. The largest config that is brought
/// in has 16 MiB.
pub(crate) const DOCUMENT_MAX: u64 = 16 << 20;
/// The most bytes of a file that names a few things: a lease, a pin, an image name, `store.json`.
pub(crate) const NOTE_MAX: u64 = 4 << 20;

/// The modes of files and directories of a store, whatever the umask is: every user who can enter the store's directory can
/// read them, and only their owner may change them.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// Opens a regular file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_at(CWD, path)
}

/// Opens a regular file in an open directory for reading.
pub(crate) fn open_at(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<File> {
    open_with(directory, name, OFlags::RDONLY, Mode::empty())
}

/// Opens a regular file for reading and writing, and creates one for its owner alone (mode 0600) if it does not exist.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    open_with(CWD, path, OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)
}

fn open_with(directory: impl AsFd, name: impl rustix::path::Arg, how: OFlags, mode: Mode) -> io::Result<File> {
    // NONBLOCK: a pipe has no other end, and a lease on a file (fcntl(2)) makes its opener wait for its holder.
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = match openat(directory, name, flags, mode) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::LOOP) => return Err(odd("it is a symbolic link")),
        // A socket, or a device without a driver.
        Err(rustix::io::Errno::NXIO) => return Err(odd(NOT_REGULAR)),
        Err(rustix::io::Errno::ISDIR) => return Err(odd("it is a directory, not a regular file")),
        Err(cause) => return Err(cause.into()),
    };
    check(&file.metadata()?)?;
    Ok(file)
}

const NOT_REGULAR: &str = "it is not a regular file";

fn check(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    match () {
        () if kind.is_file() => Ok(()),
        () if kind.is_fifo() => Err(odd("it is a pipe, not a regular file")),
        () if kind.is_dir() => Err(odd("it is a directory, not a regular file")),
        () => Err(odd(NOT_REGULAR)),
    }
}

fn odd(cause: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// Whether an error says that something is not what a store has at that place.
pub(crate) fn is_odd(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::InvalidData
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_open(&open(path)?, limit)
}

/// Reads an open file from its start; fails if it has more than `limit` bytes.
pub(crate) fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if length <= limit {
        bytes.reserve(usize::try_from(length).unwrap_or_default());
        file.take(limit + 1).read_to_end(&mut bytes)?;
    }
    if length > limit || bytes.len() as u64 > limit {
        return Err(odd(&format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a regular file of at most `limit` bytes as text.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|_| odd("it is not text"))
}

/// Whether only this user or root can change a file or directory: one of them owns it, and nobody else may write it.
pub(crate) fn is_safe(found: &Metadata) -> bool {
    (found.uid() == 0 || found.uid() == geteuid().as_raw()) && found.mode() & 0o022 == 0
}

/// Creates a file of the store for reading and writing.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Creates a file of the store with this content. Does not sync it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Creates a directory of the store, and those above it that are missing. One that exists is left as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make_directory)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => open_directory_mode(path),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// Sets the mode that a directory of the store has.
pub(crate) fn open_directory_mode(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        rustix::fs::mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        symlink("/etc/hostname", at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for name in ["pipe", "link", "directory", "socket"] {
            assert!(is_odd(&open(&at(name)).unwrap_err()), "{name}");
            assert!(is_odd(&open_private(&at(name)).unwrap_err()), "{name}");
        }
        assert!(is_odd(&open(Path::new("/dev/null")).unwrap_err()), "a device");
        assert_eq!(open(&at("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn no_more_is_read_than_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(is_odd(&read(&path, 4).unwrap_err()));
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(is_odd(&read(&path, DOCUMENT_MAX).unwrap_err()));
        assert!(is_safe(&path.metadata().unwrap()));
        fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        assert!(!is_safe(&path.metadata().unwrap()), "a group may write it");
    }
}
