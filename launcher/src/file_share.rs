//! Shares of a single file: what serves one sees that file and nothing beside it.
//!
//! `lamina __file-share FILE DIRECTORY NAME rw|ro PROGRAM...` enters a mount namespace of its own (for an ordinary user
//! within a user namespace in which that user is root), mounts an empty file system on DIRECTORY, binds FILE there
//! under NAME, makes the rest of it read-only, and becomes PROGRAM, which serves DIRECTORY. So the guest's root finds no
//! sibling to read, and can make none.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::process::{Signal, getgid, getuid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use crate::failure::{About, Failure};
use crate::hypervisor::CommandLine;

/// The first argument by which `lamina` runs as [`enter`]: not a command for users.
pub const FILE_SHARE: &str = "__file-share";

/// The command line that serves `file` alone: `server` is that of a program that serves `directory`.
///
/// # Errors
/// This program's own path cannot be found.
pub fn command(file: &Path, directory: &Path, read_only: bool, server: CommandLine) -> Result<CommandLine, Failure> {
    let ourselves = std::env::current_exe().about("/proc/self/exe")?;
    let name = file.file_name().ok_or_else(|| Failure::new(file.display(), "it has no name"))?;
    Ok(CommandLine::new(ourselves)
        .arg(FILE_SHARE)
        .arg(file)
        .arg(directory)
        .arg(name)
        .arg(if read_only { "ro" } else { "rw" })
        .arg(server.program)
        .args(server.arguments))
}

/// Does what the module says.
///
/// # Errors
/// Returns only with one.
pub fn enter(arguments: &[OsString]) -> Result<std::convert::Infallible, Failure> {
    let [file, directory, name, access, program, rest @ ..] = arguments else {
        return Err(Failure::new(FILE_SHARE, "needs a file, a directory, a name, ro or rw, and a program"));
    };
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory).about(directory.display())?;
    own_mounts()?;
    let target = directory.join(name);
    mount("lamina", &directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755,size=64k"))
        .about(directory.display())?;
    fs::write(&target, "").about(target.display())?;
    mount_bind(file, &target).about(target.display())?;
    if access == "ro" {
        // What the host has forbidden on this mount already must be forbidden again.
        let flags = inherited(Path::new(file))? | MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&target, flags, "").about(target.display())?;
    }
    let rest_read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(&directory, rest_read_only, "").about(directory.display())?;
    let error = Command::new(program).args(rest).exec();
    Err(Failure::new(program.to_string_lossy(), error))
}

/// Enters a mount namespace whose mounts nobody else sees.
fn own_mounts() -> Result<(), Failure> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let namespaces = if uid == 0 { UnshareFlags::NEWNS } else { UnshareFlags::NEWNS | UnshareFlags::NEWUSER };
    let refused = |error: rustix::io::Errno| {
        Failure::new("a share of a single file", format_args!("no user namespace: {error}")).remedy(
            "allow them (sysctl kernel.unprivileged_userns_clone=1), or share the directory that holds the file",
        )
    };
    // SAFETY: neither flag makes threads differ in their file descriptors, and this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(refused)?;
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
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).about("/")
}

/// The flags of the mount that holds `path` which a remount in a user namespace must repeat.
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
