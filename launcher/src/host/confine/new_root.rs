//! A root with nothing in it but what is shown there. What a host has at a path appears at the same path.
//!
//! It is a new file system in memory, because a copy of the host's mounts would keep every file system busy that the host
//! unmounts, and in a user namespace such mounts cannot be removed one by one (`mount_namespaces(7)`).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{pivot_root, umask};

use crate::failure::{About, Failure};

/// Where the new file system is made at first. Its content is not hidden from what is shown.
const STAGE: &str = "/tmp";

/// A root that is being made. The process is in a mount namespace of its own, and sees the host below `old`.
#[derive(Debug)]
pub(crate) struct NewRoot {
    new: PathBuf,
    old: PathBuf,
    /// The process's mask of modes, which is empty until the root is entered.
    mask: Mode,
    /// The directories that were made to lead to what is shown.
    ways: Vec<PathBuf>,
    /// Mount points that may be written to, and those that are devices.
    writable: Vec<PathBuf>,
    devices: Vec<PathBuf>,
}

impl NewRoot {
    /// Leaves the host's root for an empty one, in which the host's is at `old`.
    ///
    /// # Errors
    /// The host does not permit it.
    pub(crate) fn stage() -> Result<Self, Failure> {
        // pivot_root(2) refuses shared mounts. Slave mounts still follow what the host unmounts in the meantime.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).about("/")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("lamina", STAGE, "tmpfs", flags, Some(c"mode=0755,size=1m")).about(STAGE)?;
        std::env::set_current_dir(STAGE).about(STAGE)?;
        let mask = umask(Mode::empty());
        for directory in ["new", "old"] {
            make_way(Path::new(directory)).about(directory)?;
        }
        mount_bind("new", "new").about("new root")?;
        pivot_root(".", "old").about("pivot_root")?;
        std::env::set_current_dir("/").about("/")?;
        let (new, old) = (PathBuf::from("/new"), PathBuf::from("/old"));
        Ok(Self { mask, ways: vec![new.clone()], new, old, writable: Vec::new(), devices: Vec::new() })
    }

    /// Returns where the host's `path` is until [`NewRoot::enter`].
    #[must_use]
    pub(crate) fn of_host(&self, path: &Path) -> PathBuf {
        below(&self.old, path)
    }

    /// Shows what the host has at `path`, with everything mounted below it, for reading. A path that does not exist, or
    /// is shown already, is left out.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub(crate) fn show(&mut self, path: &Path) -> Result<(), Failure> {
        let target = below(&self.new, path);
        let Ok(found) = fs::symlink_metadata(self.of_host(path)) else { return Ok(()) };
        if fs::symlink_metadata(&target).is_ok() && !self.ways.contains(&target) {
            return Ok(());
        }
        // A link in the root, such as /bin, stays one. What is reached by a link elsewhere is shown in its place.
        if found.is_symlink() && path.parent() == Some(Path::new("/")) {
            let leads_to = fs::read_link(self.of_host(path)).about(path.display())?;
            return symlink(leads_to, &target).about(path.display());
        }
        self.bind(path, path).map(drop)
    }

    /// Shows the file, directory or socket at `path` for writing.
    ///
    /// # Errors
    /// It does not exist, or cannot be mounted.
    pub(crate) fn show_writable(&mut self, path: &Path) -> Result<(), Failure> {
        self.bind_writable(path, path)
    }

    /// Mounts what the host has at `from` at `to`, for writing.
    ///
    /// # Errors
    /// It does not exist, or cannot be mounted.
    pub(crate) fn bind_writable(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        let target = self.bind(from, to)?;
        self.writable.push(target);
        Ok(())
    }

    /// Shows a device, if the host has it.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub(crate) fn show_device(&mut self, path: &Path) -> Result<(), Failure> {
        if fs::symlink_metadata(self.of_host(path)).is_ok() {
            let target = self.bind(path, path)?;
            self.devices.push(target);
        }
        Ok(())
    }

    /// Mounts what the host has at `from` at `to`. Returns the mount point.
    ///
    /// # Errors
    /// It does not exist, or cannot be mounted.
    pub(crate) fn bind(&mut self, from: &Path, to: &Path) -> Result<PathBuf, Failure> {
        let source = self.resolve(from)?;
        let target = below(&self.new, to);
        let directory = source.is_dir();
        self.lead_to(if directory { &target } else { target.parent().unwrap_or(&self.new) }.to_owned())?;
        if directory {
            self.ways.retain(|way| *way != target);
            mount_bind_recursive(&source, &target).about(from.display())?;
        } else {
            if fs::symlink_metadata(&target).is_err() {
                fs::write(&target, "").about(from.display())?;
            }
            mount_bind(&source, &target).about(from.display())?;
        }
        Ok(target)
    }

    /// Finds the host's `path` below `old`, where the links in it, which are the host's, would lead elsewhere.
    fn resolve(&self, path: &Path) -> Result<PathBuf, Failure> {
        let mut found = self.old.clone();
        let mut rest: Vec<PathBuf> = vec![path.to_owned()];
        let mut links = 0;
        while let Some(next) = rest.pop() {
            let mut parts = next.components();
            let Some(part) = parts.next() else { continue };
            rest.push(parts.as_path().to_owned());
            match part {
                std::path::Component::RootDir => found.clone_from(&self.old),
                std::path::Component::ParentDir if found != self.old => drop(found.pop()),
                std::path::Component::Normal(name) => {
                    let step = found.join(name);
                    if fs::symlink_metadata(&step).about(path.display())?.is_symlink() {
                        links += 1;
                        if links > 40 {
                            return Err(Failure::new(path.display(), io::Error::from(rustix::io::Errno::LOOP)));
                        }
                        rest.push(fs::read_link(&step).about(path.display())?);
                    } else {
                        found = step;
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Makes an empty directory, with those that lead to it.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make_way(&mut self, path: &Path) -> Result<(), Failure> {
        self.lead_to(below(&self.new, path))
    }

    fn lead_to(&mut self, directory: PathBuf) -> Result<(), Failure> {
        if directory.exists() {
            return Ok(());
        }
        if let Some(parent) = directory.parent() {
            self.lead_to(parent.to_owned())?;
        }
        make_way(&directory).about(directory.display())?;
        self.ways.push(directory);
        Ok(())
    }

    /// Makes everything that is not writable read-only, and the root of this process. The host's root is gone then.
    ///
    /// # Errors
    /// The host does not permit it.
    pub(crate) fn enter(self) -> Result<(), Failure> {
        let mounts = fs::read(self.old.join("proc/self/mountinfo")).about("/proc/self/mountinfo")?;
        for (point, flags) in mounted(&mounts).filter(|(point, _)| point.starts_with(&self.new)) {
            let wanted = MountFlags::NOSUID
                | if self.devices.contains(&point) {
                    MountFlags::NOEXEC
                } else if self.writable.contains(&point) {
                    MountFlags::NODEV | MountFlags::NOEXEC
                } else {
                    MountFlags::NODEV | MountFlags::RDONLY
                };
            mount_remount(&point, MountFlags::BIND | flags | wanted, "").about(point.display())?;
        }
        umask(self.mask);
        std::env::set_current_dir(&self.new).about("new root")?;
        // This mounts the old root on top of the new one, see pivot_root(2), "pivot_root(".", ".")".
        pivot_root(".", ".").about("pivot_root")?;
        unmount(".", UnmountFlags::DETACH).about("the root of the host")?;
        std::env::set_current_dir("/").about("/")
    }
}

/// Makes a directory that leads to what is shown: it can be passed, and nobody learns what else is in it.
fn make_way(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o111).create(path)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Reads the mount points of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`) and their flags, which a remount in a user
/// namespace must repeat.
fn mounted(mountinfo: &[u8]) -> impl Iterator<Item = (PathBuf, MountFlags)> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ').skip(4);
        let point = unescape(fields.next()?);
        let options = fields.next()?.split(|&byte| byte == b',');
        let flags = options.map(|option| match option {
            b"ro" => MountFlags::RDONLY,
            b"nosuid" => MountFlags::NOSUID,
            b"nodev" => MountFlags::NODEV,
            b"noexec" => MountFlags::NOEXEC,
            b"noatime" => MountFlags::NOATIME,
            b"nodiratime" => MountFlags::NODIRATIME,
            b"relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        });
        Some((point, flags.fold(MountFlags::empty(), |all, flag| all | flag)))
    })
}

/// Replaces `\040` and the like, as which mountinfo writes space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_and_flags_are_read_from_mountinfo() {
        let text = b"22 1 0:20 / /new/a\\040b\\134c rw,nosuid,relatime shared:1 - tmpfs lamina rw\n\
            23 22 0:21 /x /new ro,nodev - ext4 /dev/vda rw\n";
        let found: Vec<_> = mounted(text).collect();
        assert_eq!(found[0], (PathBuf::from("/new/a b\\c"), MountFlags::NOSUID | MountFlags::RELATIME));
        assert_eq!(found[1], (PathBuf::from("/new"), MountFlags::RDONLY | MountFlags::NODEV));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn links_of_the_host_lead_to_what_the_host_has() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        fs::create_dir_all(at("real/deep")).unwrap();
        symlink("/real", at("absolute")).unwrap();
        symlink("../real/./deep/..", at("real/relative")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = NewRoot {
            new: "/new".into(),
            mask: Mode::empty(),
            old: host.path().to_owned(),
            ways: Vec::new(),
            writable: Vec::new(),
            devices: Vec::new(),
        };
        let found = |path: &str| root.resolve(Path::new(path));
        assert_eq!(found("/absolute/deep").unwrap(), at("real/deep"));
        assert_eq!(found("/real/relative/deep").unwrap(), at("real/deep"));
        assert_eq!(found("/../../real").unwrap(), at("real"));
        assert!(found("/loop").is_err() && found("/missing").is_err());
    }
}
