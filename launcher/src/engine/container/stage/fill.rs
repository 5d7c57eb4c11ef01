//! Fills an empty volume with what the image has at the path where it is mounted, as docker does.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::failure::{About, Failure};

/// Copies what `root` has at `target` into `directory`, with modes and owners, if `directory` is empty. `target` may lead
/// through symbolic links of the root; none of them leads out of it.
///
/// # Errors
/// Something cannot be copied.
pub(super) fn fill(directory: &Path, root: &Path, target: &str) -> Result<(), Failure> {
    let about = || format!("volume at {target}");
    if fs::read_dir(directory).about(directory.display())?.next().is_some() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty()).about(root.display())?;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match openat2(&root, target, flags, Mode::empty(), within) {
        Ok(found) => found,
        // The image has nothing there.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error).about(about()),
    };
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    copy_content(&source, directory).about(about())?;
    take_over(directory, &fs::metadata(&source).about(about())?).about(about())
}

/// Copies what is in a directory. Devices, pipes and sockets are left out.
fn copy_content(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let found = fs::symlink_metadata(&source)?;
        if found.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            let _ = lchown(&target, Some(found.uid()), Some(found.gid()));
        } else if found.is_dir() {
            fs::create_dir(&target)?;
            copy_content(&source, &target)?;
            take_over(&target, &found)?;
        } else if found.is_file() {
            let mut copy = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
            io::copy(&mut fs::File::open(&source)?, &mut copy)?;
            take_over(&target, &found)?;
        }
    }
    Ok(())
}

/// Gives a file or a directory the owner and the mode of another, but no set-user-ID bits, which would be the host's. Without subordinate ids, everything belongs to root.
fn take_over(path: &Path, like: &Metadata) -> io::Result<()> {
    let opened = fs::File::open(path)?;
    let _ = fchown(&opened, Some(like.uid()), Some(like.gid()));
    opened.set_permissions(fs::Permissions::from_mode(like.mode() & 0o1777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_volume_gets_what_the_root_has_and_no_other_one() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, outside) = (scratch.path().join("root"), scratch.path().join("outside"));
        fs::create_dir_all(root.join("srv/data/sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "").unwrap();
        fs::write(root.join("srv/data/sub/file"), "content").unwrap();
        fs::set_permissions(root.join("srv/data/sub/file"), fs::Permissions::from_mode(0o4640)).unwrap();
        symlink("sub/file", root.join("srv/data/link")).unwrap();
        symlink("/srv/data", root.join("short")).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        let volume = |name: &str| {
            let volume = scratch.path().join(name);
            fs::create_dir(&volume).unwrap();
            volume
        };
        for target in ["/srv/data", "/short"] {
            let filled = volume(&target.replace('/', "-"));
            fill(&filled, &root, target).unwrap();
            assert_eq!(fs::read_to_string(filled.join("link")).unwrap(), "content");
            assert_eq!(fs::metadata(filled.join("sub/file")).unwrap().mode() & 0o7777, 0o640);
            fs::write(root.join("srv/data/later"), "").unwrap();
            fill(&filled, &root, target).unwrap();
            assert!(!filled.join("later").exists());
            fs::remove_file(root.join("srv/data/later")).unwrap();
        }
        for target in ["/out", "/no/such", "/srv/data/sub/file"] {
            let empty = volume(&target.replace('/', "-"));
            fill(&empty, &root, target).unwrap();
            assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "{target}");
        }
    }
}
