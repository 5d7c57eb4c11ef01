//! Init as the first process of a container. The root, `/proc`, `/sys`, `/dev` and the shares are mounted before it starts,
//! and it has not the rights to mount anything; everything else is as in a VM.
//!
//! It is started as `init container NAME...`, where each name says what a descriptor is, from number 3 on:
//!
//! | name | descriptor |
//! |---|---|
//! | `control` | the control channel |
//! | `init` | this program |
//! | `writes` | the directory of the root's writes |
//! | `lower` | the tree below them |
//! | `root` | the root, writable, where the container's root is read-only |
//! | `groups` | the file of the container's control group that moves the process that writes `0` into the group |
//!
//! The directories have nothing above them: no path leads from them to the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use guest_protocol::account::Account;

use crate::sys;

/// The first argument of an init that is the first process of a container.
const CONTAINER: &str = "container";

/// The ids that the container has. They are read once: a thread in the namespace of the image's init finds no `/proc/self`.
static USERS: LazyLock<String> = LazyLock::new(|| map_of("uid"));
static GROUPS: LazyLock<String> = LazyLock::new(|| map_of("gid"));

fn map_of(what: &str) -> String {
    fs::read_to_string(format!("/proc/self/{what}_map")).unwrap_or_default()
}

/// Checks that the container has the ids of an account and the groups `added`: one without subordinate ids has only root's.
///
/// # Errors
/// It has not.
pub(crate) fn has_ids(account: &Account, added: &[u32]) -> Result<(), String> {
    let added = added.iter().map(|gid| ("gid", *gid));
    for (what, id) in [("uid", account.uid), ("gid", account.gid)].into_iter().chain(added) {
        if !is_mapped(if what == "uid" { &USERS } else { &GROUPS }, id) {
            return Err(format!("the container has no {what} {id}: give this host's user subordinate ids"));
        }
    }
    Ok(())
}

/// Whether a map of ids has one: each line is the first id inside, the first one outside, and how many
/// (user_namespaces(7)).
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or_default());
        let (first, count) = (numbers.next().unwrap_or_default(), numbers.nth(1).unwrap_or_default());
        (first..first + count).contains(&u64::from(id))
    })
}

/// The number of the first descriptor that is described.
const FIRST: i32 = 3;

/// What a container's init is given.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) control: File,
    /// The writes to the root and the tree below them, if this container can write.
    pub(crate) writes: Option<(File, File)>,
    /// The root, if the one that processes see is read-only.
    pub(crate) root: Option<File>,
    /// What moves a process into the container's own control group, if it has one.
    pub(crate) groups: Option<File>,
}

impl Container {
    /// Takes the descriptors that the arguments name. Returns nothing if this is the init of a VM.
    ///
    /// # Errors
    /// The control channel is missing.
    pub(crate) fn of(arguments: &[String]) -> Result<Option<Self>, String> {
        let Some((_, names)) = arguments.split_first().filter(|(first, _)| *first == CONTAINER) else {
            return Ok(None);
        };
        let (mut control, mut writes, mut lower, mut root, mut groups) = (None, None, None, None, None);
        for (number, name) in (FIRST..).zip(names) {
            let file = sys::inherited(number).map_err(|error| format!("descriptor {number}: {error}"))?;
            match name.as_str() {
                "control" => control = Some(file),
                "writes" => writes = Some(file),
                "lower" => lower = Some(file),
                "root" => root = Some(file),
                "groups" => groups = Some(file),
                // It was needed to start this program.
                _ => drop(file),
            }
        }
        let control = control.ok_or("it has no control channel")?;
        LazyLock::force(&USERS);
        LazyLock::force(&GROUPS);
        Ok(Some(Self { control, writes: writes.zip(lower), root, groups }))
    }

    /// Returns the directory through which the root can be written.
    pub(crate) fn writable_root(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        match &self.root {
            Some(root) => Path::new("/proc/self/fd").join(root.as_raw_fd().to_string()),
            None => PathBuf::from("/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_of_the_map_are_known_before_they_fail() {
        let many = "         0       1001          1\n         1     100000      65536\n";
        assert!(is_mapped(many, 0) && is_mapped(many, 33) && is_mapped(many, 65_536));
        assert!(!is_mapped(many, 65_537) && !is_mapped("0 1001 1\n", 33) && !is_mapped("", 0));
        assert!(is_mapped("0 0 4294967295\n", 33));
    }
}
