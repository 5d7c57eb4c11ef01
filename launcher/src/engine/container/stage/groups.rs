//! The control groups of a container whose command may be systemd, which makes groups for its services.
//!
//! The stage is in a group that systemd has delegated, and makes two groups in it: one for itself, the runtime and init, and
//! one for the container, which systemd finds as the root of all groups. Only a group without processes can pass controllers
//! on, so none is in the one above them, and none but systemd's own are in the container's.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};
use rustix::thread::UnshareFlags;

use super::GROUPS;
use crate::failure::{About, Failure};
use crate::host::confine::Account;
use crate::sys;

/// The group of the stage, and the one of the container.
const OURS: &str = "lamina";
const THEIRS: &str = "container";

/// Writing `0` to this file moves the process that writes.
const PROCESSES: &str = "cgroup.procs";

/// The groups of one container. They outlive its processes until systemd removes the delegated group.
#[derive(Debug)]
pub(super) struct Groups {
    ours: File,
    theirs: File,
}

impl Groups {
    /// Makes the groups, before this process gives up rights and while it sees the host's groups. The container's belongs to
    /// `account`, if this process is root.
    ///
    /// # Errors
    /// They are not delegated.
    pub(super) fn make(account: Option<&Account>) -> Result<Self, Failure> {
        let delegated = own_group()?;
        for name in [OURS, THEIRS] {
            let path = delegated.join(name);
            fs::create_dir(&path).about(path.display())?;
        }
        let ours = open(&delegated.join(OURS))?;
        move_to(&ours)?;
        let list = delegated.join("cgroup.controllers");
        for controller in fs::read_to_string(&list).about(list.display())?.split_whitespace() {
            // One that is not delegated is missing in the container, and nothing else.
            let _ = fs::write(delegated.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let container = delegated.join(THEIRS);
        if let Some(Account { uid, gid, .. }) = account {
            for name in ["", PROCESSES, "cgroup.threads", "cgroup.subtree_control"] {
                let path = container.join(name);
                chown(&path, Some(*uid), Some(*gid)).about(path.display())?;
            }
        }
        Ok(Self { ours, theirs: open(&container)? })
    }

    /// Mounts the container's group in the place of the stage, as the root of a namespace of groups, in which the processes
    /// that this one starts are. Returns the descriptor that moves the process that writes to it into the group.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn mount(self) -> Result<OwnedFd, Failure> {
        move_to(&self.theirs)?;
        sys::unshare(UnshareFlags::NEWCGROUP).about("namespace of control groups")?;
        // Before Linux 5.17 a process cannot leave its namespace by a file that it opened before. The container's group then
        // has this process, too, and its own groups have no controllers.
        let _ = move_to(&self.ours);
        mount_groups()?;
        Ok(self.theirs.into())
    }
}

/// Mounts the group of this process in the place of the stage, as the root of a namespace of groups.
///
/// # Errors
/// The kernel refuses.
pub(super) fn show() -> Result<(), Failure> {
    sys::unshare(UnshareFlags::NEWCGROUP).about("namespace of control groups")?;
    mount_groups()
}

fn mount_groups() -> Result<(), Failure> {
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("lamina", GROUPS, "cgroup2", hardened, None).about("control groups")
}

fn own_group() -> Result<PathBuf, Failure> {
    let about = "/proc/self/cgroup";
    let text = fs::read_to_string(about).about(about)?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = group.ok_or_else(|| Failure::new(about, "this host has no control groups of version 2"))?;
    Ok(Path::new("/sys/fs/cgroup").join(group))
}

fn open(group: &Path) -> Result<File, Failure> {
    let path = group.join(PROCESSES);
    File::options().write(true).open(&path).about(path.display())
}

fn move_to(mut group: &File) -> Result<(), Failure> {
    group.write_all(b"0").about("control groups")
}
