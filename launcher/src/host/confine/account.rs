//! Whom machines run as if root starts them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest_protocol::account;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The user that `scripts/setup` makes for this.
const USUAL: &str = "lamina";

/// A user of the host, with its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Account {
    /// The user's name or number, for messages.
    pub(crate) name: String,
    /// The user's id.
    pub(crate) uid: u32,
    /// The id of its own group.
    pub(crate) gid: u32,
    /// The ids of its further groups.
    pub(crate) groups: Vec<u32>,
}

impl Account {
    /// Returns the directory on the way to `path` that this user cannot enter, or `path` if it is a file that this user
    /// cannot read, judging by modes. Access control lists are not looked at.
    #[must_use]
    pub(crate) fn first_closed(&self, path: &Path) -> Option<PathBuf> {
        let real = path.canonicalize().ok()?;
        let mut way: Vec<&Path> = real.ancestors().collect();
        way.reverse();
        let closed = |path: &&Path| {
            let Ok(found) = fs::metadata(path) else { return true };
            let needed = if found.is_dir() { 0o1 } else { 0o4 };
            let in_group = self.gid == found.gid() || self.groups.contains(&found.gid());
            let shift = if self.uid == found.uid() {
                6
            } else if in_group {
                3
            } else {
                0
            };
            (found.mode() >> shift) & needed == 0
        };
        way.into_iter().find(closed).map(Path::to_owned)
    }
}

/// Returns the user that machines run as if this process is root, and nothing for an ordinary user: the one that is
/// `named`, or else named by `LAMINA_AS`, or else `lamina`.
///
/// # Errors
/// There is no such user, or it is root.
pub(crate) fn unprivileged(named: Option<&str>) -> Result<Option<Account>, Failure> {
    if !is_root_of_the_host() {
        return match named {
            Some(name) => Err(Failure::new(format_args!("--as {name}"), "only root can run machines as another user")),
            None => Ok(None),
        };
    }
    let variable = std::env::var("LAMINA_AS").ok().filter(|name| !name.is_empty());
    let (what, name) = match (named, variable) {
        (Some(name), _) => (format!("--as {name}"), name.to_owned()),
        (None, Some(name)) => (format!("LAMINA_AS={name}"), name),
        (None, None) => (format!("user {USUAL}"), USUAL.to_owned()),
    };
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    find(&name, &text("/etc/passwd"), &text("/etc/group")).map(Some).map_err(|cause| {
        Failure::new(what, format_args!("{cause}; root does not run machines itself")).with_hint(format_args!(
            "make the user (useradd --system --no-create-home --groups kvm {USUAL}), name another one with --as USER, or \
            run lamina as an ordinary user"
        ))
    })
}

fn find(name: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let found = account::resolve(name, passwd, group).map_err(|_| "this host has no such user".to_owned())?;
    // A number without an account would get root's group.
    if found.uid == 0 || found.gid == 0 || found.groups.contains(&0) {
        return Err("it has root's user or group id".to_owned());
    }
    Ok(Account { name: name.to_owned(), uid: found.uid, gid: found.gid, groups: found.groups })
}

/// Whether this process is root, and not only root of a user namespace that an ordinary user has made.
pub(crate) fn is_root_of_the_host() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && covers_all(&map)
}

/// Whether a map of ids (`user_namespaces(7)`) is that of the first user namespace.
fn covers_all(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nlamina:x:990:991::/:/bin/false\ntoor:x:0:1::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:staff\nkvm:x:104:other,lamina\nlamina:x:991:\n";

    #[test]
    fn user_has_the_groups_that_list_it() {
        let found = find("lamina", PASSWD, GROUP).unwrap();
        assert_eq!((found.uid, found.gid, found.groups), (990, 991, vec![104]));
        assert_eq!(find("7:8", PASSWD, GROUP).map(|found| (found.uid, found.gid)), Ok((7, 8)));
    }

    #[test]
    fn what_a_user_cannot_reach_is_found() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let own = fs::metadata(directory.path()).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let owner = Account { uid: own.uid(), gid: own.gid(), ..Account::default() };
        let other = Account { uid: own.uid() + 1, gid: own.gid() + 1, ..Account::default() };
        assert_eq!(owner.first_closed(&file), None);
        assert_eq!(other.first_closed(&file), Some(directory.path().canonicalize().unwrap()));
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
        assert_eq!(other.first_closed(&file), Some(file.canonicalize().unwrap()));
        let member = Account { groups: vec![own.gid()], ..other };
        assert_eq!(member.first_closed(&file), None);
    }

    #[test]
    fn root_by_any_name_is_refused() {
        for wrong in ["root", "0", "toor", "nobody", "7", "990:0", ""] {
            assert!(find(wrong, PASSWD, GROUP).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_first_user_namespace_covers_all_ids() {
        assert!(covers_all("         0          0 4294967295\n"));
        assert!(!covers_all("         0       1000          1\n"));
        assert!(!covers_all("0 1000 1\n1 100000 65536\n") && !covers_all(""));
    }
}
