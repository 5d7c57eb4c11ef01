//! Makes a layer of what was written to a snapshot: the upper directory of an overlay, packed as a tar.
//!
//! overlayfs marks a deletion with a character device 0:0, and a directory that hides the one below it with the attribute
//! `trusted.overlay.opaque` (`Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories"). containerd
//! writes the same marks when it applies a layer to such a directory itself. The same content makes the same tar, so a layer
//! that is applied again is the same layer of the store.

use std::fs::{self, Metadata};
use std::io::{self, BufWriter, PipeWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use layer_store::{DiffId, ExpectedLayer, Store};
use rustix::io::Errno;
use tree_packer::{PackError, Packer, names_in};

use crate::error::Error;

/// The prefix of overlayfs's own attributes.
const PRIVATE: &str = "trusted.overlay.";
/// A label of the host's policy, which every file on such a host has.
const HOST_LABEL: &str = "security.selinux";
/// The OCI names of marks (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &str = ".wh.";
const OPAQUE_WHITEOUT: &str = ".wh..wh..opq";

/// Owner and mode of a root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootAttributes {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

impl RootAttributes {
    /// Those of a tree without layers.
    pub(crate) const NEW: Self = Self { uid: 0, gid: 0, mode: 0o755 };

    pub(crate) fn of(directory: &Path) -> Result<Self, Error> {
        let found = fs::metadata(directory).map_err(Error::io(directory))?;
        Ok(Self { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 })
    }

    pub(crate) fn give_to(self, directory: &Path) -> Result<(), Error> {
        std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid)).map_err(Error::io(directory))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(self.mode)).map_err(Error::io(directory))
    }
}

/// Adds the content of an upper directory to the store. `root` are the attributes of the root below it: the new layer has
/// an entry for the root only if its own differ, because its time always does.
pub(crate) fn add_layer(store: &Store, upper: &Path, root: RootAttributes) -> Result<DiffId, Error> {
    let (mut reader, writer) = io::pipe().map_err(Error::io(upper))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || pack(upper, root, writer));
        let ingested = store.layers().ingest(&mut reader, &ExpectedLayer::default());
        // If the store stopped reading, this makes the packer end.
        drop(reader);
        let packed = packing.join().unwrap_or_else(|_| Err(stream("packing ended early")));
        match (ingested, packed) {
            (Ok(layer), Ok(())) => Ok(layer.diff_id),
            // The store saw the tar end because of it.
            (_, Err(PackError::File { path, cause })) => Err(Error::Io { path, cause }),
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(PackError::Stream(cause))) => Err(Error::Io { path: upper.to_owned(), cause }),
        }
    })
}

fn stream(cause: &str) -> PackError {
    PackError::Stream(io::Error::other(cause.to_owned()))
}

fn pack(upper: &Path, root: RootAttributes, out: PipeWriter) -> Result<(), PackError> {
    let mut packer = Packer::new(BufWriter::with_capacity(64 << 10, out));
    let mut todo = vec![PathBuf::new()];
    while let Some(name) = todo.pop() {
        let path = upper.join(&name);
        let found = fs::symlink_metadata(&path).map_err(failed(&path))?;
        if is_whiteout(&found) {
            packer.marker(&whiteout(&name)).map_err(PackError::Stream)?;
            continue;
        }
        pack_one(&mut packer, &path, &name, &found, root)?;
        if found.is_dir() {
            todo.extend(names_in(&path)?.into_iter().rev().map(|child| name.join(child)));
        }
    }
    packer.finish().map(drop).map_err(PackError::Stream)
}

fn pack_one(
    packer: &mut Packer<impl Write>,
    path: &Path,
    name: &Path,
    found: &Metadata,
    root: RootAttributes,
) -> Result<(), PackError> {
    let (xattrs, is_opaque) = xattrs(path)?;
    let own = RootAttributes { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 };
    if name.as_os_str().is_empty() && own == root && xattrs.is_empty() {
        return Ok(());
    }
    if !packer.entry(path, name, found, &xattrs)? {
        tracing::warn!("{}: sockets cannot be part of a layer; it is left out", path.display());
    }
    if is_opaque && found.is_dir() {
        packer.marker(&name.join(OPAQUE_WHITEOUT)).map_err(PackError::Stream)?;
    }
    Ok(())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> PackError {
    move |cause| PackError::File { path: path.to_owned(), cause }
}

fn is_whiteout(found: &Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == 0
}

fn whiteout(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(WHITEOUT);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Names and values.
type Xattrs = Vec<(String, Vec<u8>)>;

/// Returns the attributes that are the file's own, and whether overlayfs has marked it as opaque.
fn xattrs(path: &Path) -> Result<(Xattrs, bool), PackError> {
    let failed = |errno: Errno| failed(path)(errno.into());
    // XATTR_LIST_MAX and XATTR_SIZE_MAX.
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(failed(errno)),
    };
    let (mut own, mut is_opaque) = (Vec::new(), false);
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).map_err(failed)?;
        value.truncate(length);
        let name = String::from_utf8_lossy(name).into_owned();
        match name.strip_prefix(PRIVATE) {
            Some(mark) => is_opaque |= mark == "opaque" && value == b"y",
            None if name == HOST_LABEL => {}
            None => own.push((name, value)),
        }
    }
    Ok((own, is_opaque))
}

/// Returns the bytes on disk below a directory, and the number of its files and directories.
pub(crate) fn usage(directory: &Path) -> Result<(u64, u64), Error> {
    let (mut bytes, mut inodes, mut todo) = (0, 0, vec![directory.to_owned()]);
    let mut seen = std::collections::HashSet::new();
    while let Some(path) = todo.pop() {
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            // The container that writes here has removed it.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(Error::io(&path)(cause)),
        };
        if found.nlink() > 1 && !found.is_dir() && !seen.insert(found.ino()) {
            continue;
        }
        bytes += found.blocks() * 512;
        inodes += 1;
        if found.is_dir() {
            let entries = fs::read_dir(&path).map(|entries| entries.flatten().map(|entry| entry.path()));
            todo.extend(entries.into_iter().flatten());
        }
    }
    Ok((bytes, inodes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The entries of the tar of a directory: type, path, and link target.
    fn packed(upper: &Path, root: RootAttributes) -> Vec<String> {
        let (reader, writer) = io::pipe().unwrap();
        let upper = upper.to_owned();
        let packing = std::thread::spawn(move || pack(&upper, root, writer));
        let mut archive = tar::Archive::new(reader);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let kind = char::from(entry.header().entry_type().as_byte());
            let target = entry.link_name().unwrap().map(|target| format!(" {}", target.display())).unwrap_or_default();
            format!("{kind} {}{target}", entry.path().unwrap().display())
        });
        let entries = entries.collect();
        packing.join().unwrap().unwrap();
        entries
    }

    #[test]
    fn an_upper_directory_becomes_a_tar_with_entries_in_order_and_hard_links() {
        let directory = tempfile::tempdir().unwrap();
        let upper = directory.path().join("upper");
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/a"), "text").unwrap();
        fs::hard_link(upper.join("etc/a"), upper.join("b")).unwrap();
        symlink("etc/a", upper.join("c")).unwrap();
        let root = RootAttributes::of(&upper).unwrap();
        assert_eq!(packed(&upper, root), ["0 b", "2 c etc/a", "5 etc", "1 etc/a b"]);
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(packed(&upper, root)[0], "5 .");
        let (_, inodes) = usage(&upper).unwrap();
        assert_eq!(inodes, 4);
    }

    #[test]
    fn an_empty_upper_directory_becomes_the_tar_without_entries() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let upper = directory.path().join("upper");
        fs::create_dir(&upper).unwrap();
        let root = RootAttributes::of(&upper).unwrap();
        let layer = add_layer(&store, &upper, root).unwrap();
        assert_eq!(layer, DiffId(layer_store::Digest::of(&[0; 1024])));
        assert_eq!(add_layer(&store, &upper, root).unwrap(), layer);
        add_layer(&store, &directory.path().join("missing"), root).unwrap_err();
    }
}
