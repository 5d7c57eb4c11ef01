//! Shares of a single file: the server of one sees that file and no other file next to it.
//!
//! `lamina __file-share FILE DIRECTORY NAME rw|ro SOCKET PROGRAM...` enters a new mount namespace (for an
//! ordinary user within a user namespace in which that user is root) and makes an empty file system its root. It binds
//! FILE there as DIRECTORY/NAME, and adds what a program needs to run and the directory of its SOCKET. It makes the
//! rest read-only, and becomes PROGRAM, which serves DIRECTORY. So root in the guest finds no other file to read, and
//! can create none.
//!
//! The root is a new one, not the host's with one mount more. A copy of the host's mounts would keep every file system
//! busy that the host unmounts, and in a user namespace such mounts cannot be removed one by one
//! (`mount_namespaces(7)`).

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{Signal, getgid, getuid, pivot_root, set_parent_process_death_signal};

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::sys;

/// The first argument with which `lamina` runs as [`enter`]. It is not a command for users.
pub(crate) const FILE_SHARE: &str = "__file-share";

/// Where programs, their libraries and what the loader reads are: the host's own and those of Nix and Guix.
const NEEDED: [&str; 10] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/nix", "/gnu", "/proc"];

/// Returns the command line that serves only `file`. `server` is the command line of a program that serves `directory`
/// at `socket`.
///
/// # Errors
/// This program's own path cannot be found.
pub(crate) fn command(
    file: &Path,
    directory: &Path,
    read_only: bool,
    socket: &Path,
    server: CommandLine,
) -> Result<CommandLine, Failure> {
    let ourselves = std::env::current_exe().about("/proc/self/exe")?;
    let name = file.file_name().ok_or_else(|| Failure::new(file.display(), "it has no name"))?;
    Ok(CommandLine::new(ourselves)
        .arg(FILE_SHARE)
        .arg(file)
        .arg(directory)
        .arg(name)
        .arg(if read_only { "ro" } else { "rw" })
        .arg(socket)
        .arg(server.program)
        .args(server.arguments))
}

/// Does what the module's documentation says.
///
/// # Errors
/// Always: this returns only if it fails.
pub(crate) fn enter(arguments: &[OsString]) -> Result<std::convert::Infallible, Failure> {
    let [file, directory, name, access, socket, program, rest @ ..] = arguments else {
        return Err(Failure::new(FILE_SHARE, "needs a file, a directory, a name, ro or rw, a socket, and a program"));
    };
    let (directory, program) = (Path::new(directory), Path::new(program));
    fs::create_dir_all(directory).about(directory.display())?;
    own_mounts()?;
    mount("lamina", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755,size=64k"))
        .about(directory.display())?;
    let root = Root(directory);
    for needed in NEEDED {
        root.show(Path::new(needed))?;
    }
    if !NEEDED.iter().any(|needed| program.starts_with(needed)) {
        root.show(program)?;
    }
    root.show(Path::new(socket).parent().unwrap_or(Path::new("/")))?;
    let target = root.inside(&directory.join(name));
    root.bind_file(Path::new(file), &target)?;
    if access == "ro" {
        // Flags that restrict the host's mount already must be set again.
        let flags = inherited(Path::new(file))? | MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&target, flags, "").about(target.display())?;
    }
    root.enter()?;
    let error = Command::new(program).args(rest).exec();
    Err(Failure::new(program.display(), error))
}

/// The mount point of the file system that becomes the root.
struct Root<'a>(&'a Path);

impl Root<'_> {
    /// Returns where the host's `path` appears in this root.
    fn inside(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Shows what the host has at `path`, with everything mounted below it. A symbolic link stays one, and a missing
    /// path is skipped.
    fn show(&self, path: &Path) -> Result<(), Failure> {
        let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
        let target = self.inside(path);
        if found.is_symlink() {
            let leads_to = fs::read_link(path).about(path.display())?;
            return symlink(leads_to, &target).about(target.display());
        }
        if !found.is_dir() {
            return self.bind_file(path, &target);
        }
        fs::create_dir_all(&target).about(target.display())?;
        mount_bind_recursive(path, &target).about(target.display())
    }

    fn bind_file(&self, file: &Path, target: &Path) -> Result<(), Failure> {
        fs::create_dir_all(target.parent().unwrap_or(self.0)).about(target.display())?;
        fs::write(target, "").about(target.display())?;
        mount_bind(file, target).about(target.display())
    }

    /// Makes it the root, and unmounts the host's root.
    fn enter(&self) -> Result<(), Failure> {
        let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(self.0, read_only, "").about(self.0.display())?;
        std::env::set_current_dir(self.0).about(self.0.display())?;
        // This mounts the old root on top of the new one, see pivot_root(2), "pivot_root(".", ".")".
        pivot_root(".", ".").about("pivot_root")?;
        unmount(".", UnmountFlags::DETACH).about("the root of the host")?;
        std::env::set_current_dir("/").about("/")
    }
}

/// Enters a private mount namespace.
fn own_mounts() -> Result<(), Failure> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let refused = |error: rustix::io::Errno| {
        Failure::new("a share of a single file", format_args!("no user namespace: {error}")).with_hint(
            "allow them (sysctl kernel.unprivileged_userns_clone=1), or share the directory that holds the file",
        )
    };
    sys::unshare_mounts(uid != 0).map_err(refused)?;
    if uid != 0 {
        for (path, text) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("0 {uid} 1")),
            ("/proc/self/gid_map", format!("0 {gid} 1")),
        ] {
            fs::write(path, text).about(path)?;
        }
    }
    // New credentials may have cleared it.
    set_parent_process_death_signal(Some(Signal::KILL)).about("prctl(PR_SET_PDEATHSIG)")?;
    // pivot_root(2) refuses shared mounts. Slave mounts still follow what the host unmounts in the meantime.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).about("/")
}

/// Returns the flags of the mount that holds `path` that a remount in a user namespace must repeat.
fn inherited(path: &Path) -> Result<MountFlags, Failure> {
    use rustix::fs::StatVfsMountFlags as Found;
    let found = rustix::fs::statvfs(path).about(path.display())?.f_flag;
    let pairs = [
        (Found::NOSUID, MountFlags::NOSUID),
        (Found::NODEV, MountFlags::NODEV),
        (Found::NOEXEC, MountFlags::NOEXEC),
        (Found::NOATIME, MountFlags::NOATIME),
        (Found::NODIRATIME, MountFlags::NODIRATIME),
        (Found::RELATIME, MountFlags::RELATIME),
    ];
    let flags = pairs.into_iter().filter(|(has, _)| found.contains(*has)).map(|(_, flag)| flag);
    Ok(flags.fold(MountFlags::empty(), |all, flag| all | flag))
}
