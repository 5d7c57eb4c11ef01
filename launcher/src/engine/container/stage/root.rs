//! A stage that root starts: it gives up root before it enters the namespaces of the container.
//!
//! The user that it becomes may not enter the directories of root's machine. So while it is root, it makes a mount namespace
//! in which a file system in memory hides them, and mounts there what the stage uses: the machine's directory of
//! sockets, empty; init's program; and what the container keeps.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount, open_tree,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::Spec;
use crate::engine::plan::Upper;
use crate::failure::{About, Failure};
use crate::host::confine::Account;
use crate::sys;

/// Becomes `account`, for whom the paths of `spec` then lead to what they led to for root.
///
/// # Errors
/// Something cannot be mounted.
pub(super) fn give_up(spec: &mut Spec, account: &Account) -> Result<(), Failure> {
    sys::unshare(UnshareFlags::NEWNS).about("mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).about("mount namespace")?;
    // Opened first, because they may be in what is hidden.
    let init = take(&spec.init)?;
    let kept = match &spec.upper {
        Upper::Directory(directory) => Some(take(directory)?),
        _ => None,
    };
    let beside = spec.place.parent().map(Path::to_owned).unwrap_or_default();
    let hidden = account.first_closed(&spec.place).unwrap_or_else(|| beside.clone());
    mount("lamina", &hidden, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=4M,mode=0711")
        .about(hidden.display())?;
    fs::create_dir_all(&spec.place).about(spec.place.display())?;
    chown(&spec.place, Some(account.uid), Some(account.gid)).about(spec.place.display())?;
    // No machine's name begins with a dot.
    spec.init = beside.join(".init");
    fs::write(&spec.init, "").about(spec.init.display())?;
    put(&init, &spec.init)?;
    if let Some(kept) = kept {
        let path = beside.join(".kept");
        fs::create_dir(&path).about(path.display())?;
        put(&kept, &path)?;
        spec.upper = Upper::Directory(path);
    }
    become_user(account)
}

/// Returns a copy of the mount of a file or directory, without a place.
fn take(path: &PathBuf) -> Result<OwnedFd, Failure> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).about(path.display())
}

fn put(taken: &OwnedFd, path: &PathBuf) -> Result<(), Failure> {
    move_mount(taken.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).about(path.display())
}

fn become_user(account: &Account) -> Result<(), Failure> {
    let about = || format!("user {}", account.name);
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).about(about())?;
    set_thread_res_gid(gid, gid, gid).about(about())?;
    set_thread_res_uid(uid, uid, uid).about(about())?;
    // The user's own programs, such as pasta, must find its namespaces in /proc.
    set_dumpable_behavior(DumpableBehavior::Dumpable).about(about())
}
