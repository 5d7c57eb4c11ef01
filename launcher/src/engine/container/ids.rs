//! Which ids of the host stand behind the ids of a container.
//!
//! A container has the user's own id and the user's subordinate ids (subuid(5), subgid(5)), which newuidmap(1) and
//! newgidmap(1) give to it. Without subordinate ids it has the user's own id only. If root starts the container, they are the
//! ids of the user that root's machines run as, and root itself gives them.

use std::fs;
use std::process::Command;

use layer_store::user_dirs;
use rustix::process::{Pid, getgid, getuid};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};

use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::confine::Account;
use crate::host::confine::enter::{map_one_id, open_proc};

/// A range of ids: the first one inside, the first one of the host, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

/// The ids of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    users: Vec<Range>,
    groups: Vec<Range>,
    /// Whether this process is root, and may give them itself.
    by_root: bool,
}

impl Ids {
    /// Returns the ids of a container in which the user's own files belong to `owner`, a user and a group. The user is
    /// `account` if this process is root.
    ///
    /// # Errors
    /// The user has no subordinate ids, or the programs that give them are missing.
    pub(super) fn subordinate(owner: (u32, u32), account: Option<&Account>) -> Result<Self, Failure> {
        if account.is_none() {
            for program in ["newuidmap", "newgidmap"] {
                find(program)?;
            }
        }
        let (user, group) = own(account);
        Ok(Self {
            users: arrange(user, owner.0, &subordinate("/etc/subuid", user)?),
            groups: arrange(group, owner.1, &subordinate("/etc/subgid", user)?),
            by_root: account.is_some(),
        })
    }

    /// Returns the ids of a container that has only the user's own.
    pub(super) fn single(account: Option<&Account>) -> Self {
        let only = |outside| vec![Range { inside: 0, outside, count: 1 }];
        let (user, group) = own(account);
        Self { users: only(user), groups: only(group), by_root: account.is_some() }
    }

    /// Whether there is only one id.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.users[..], [Range { count: 1, .. }])
    }

    /// Returns the highest group id that the container has.
    pub(super) fn last_group(&self) -> u32 {
        self.groups.iter().map(|range| range.inside + (range.count - 1)).max().unwrap_or_default()
    }

    /// Gives them to the user namespace of a process.
    ///
    /// # Errors
    /// The kernel or one of the programs refuses.
    pub(super) fn give_to(&self, process: Pid) -> Result<(), Failure> {
        let process = process.as_raw_nonzero().get();
        if let ([user @ Range { count: 1, .. }], [group]) = (&self.users[..], &self.groups[..]) {
            let ids = |range: &Range| (range.inside, range.outside);
            return map_one_id(&open_proc()?, &process.to_string(), ids(user), ids(group));
        }
        if self.by_root {
            let give = |map: &str, ranges| fs::write(format!("/proc/{process}/{map}"), line(ranges));
            return give("gid_map", &self.groups).and_then(|()| give("uid_map", &self.users)).about("subordinate ids");
        }
        for (program, ranges) in [("newuidmap", &self.users), ("newgidmap", &self.groups)] {
            let mut command = Command::new(find(program)?);
            command.arg(process.to_string()).args(line(ranges).split_whitespace());
            let output = command.output().about(program)?;
            if !output.status.success() {
                let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
                return Err(Failure::new(program, words).with_hint(
                    "it must be installed with its capabilities or setuid root (Debian: apt-get install --reinstall uidmap)",
                ));
            }
        }
        Ok(())
    }
}

/// Becomes root of the user namespace that this process has entered. Until then the process has no id there.
pub(super) fn become_root() -> Result<(), Failure> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).about("setresgid")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).about("setresuid")
}

fn line(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

fn find(program: &str) -> Result<std::path::PathBuf, Failure> {
    child::find(program, &["/usr/bin"]).ok_or_else(|| {
        Failure::new(program, "not found in PATH").with_hint("install it (Debian: apt-get install uidmap)")
    })
}

/// Returns the ids of `account`, or else of this process.
fn own(account: Option<&Account>) -> (u32, u32) {
    account.map_or_else(|| (getuid().as_raw(), getgid().as_raw()), |account| (account.uid, account.gid))
}

/// Returns the subordinate ids of a user: each range's first id and length.
fn subordinate(file: &str, user: u32) -> Result<Vec<(u32, u32)>, Failure> {
    let from_environment = || std::env::var("USER").ok().filter(|_| user == getuid().as_raw());
    let name = user_dirs::name_of_user(user).or_else(from_environment);
    let found = parse(&fs::read_to_string(file).unwrap_or_default(), user, name.as_deref());
    if found.is_empty() {
        let user = name.unwrap_or_else(|| user.to_string());
        return Err(Failure::new(file, format_args!("it has no subordinate ids for {user}")).with_hint(format_args!(
            "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        )));
    }
    Ok(found)
}

/// Parses subuid(5): `NAME-OR-ID:FIRST:COUNT`.
fn parse(text: &str, user: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let ours = Some(owner) == name || owner.parse() == Ok(user);
        (ours && range.1 > 0).then_some(range)
    });
    ranges.collect()
}

/// Puts the user's `own` id at `place` inside, and the subordinate ids at the other places from 0 on.
fn arrange(own: u32, place: u32, subordinate: &[(u32, u32)]) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut inside: u32 = 0;
    let mut placed = false;
    for &(mut outside, mut count) in subordinate {
        while count > 0 {
            if inside == place && !placed {
                ranges.push(Range { inside, outside: own, count: 1 });
                inside = inside.saturating_add(1);
                placed = true;
            }
            let part = if inside < place { count.min(place - inside) } else { count };
            ranges.push(Range { inside, outside, count: part });
            inside = inside.saturating_add(part);
            outside = outside.saturating_add(part);
            count -= part;
        }
    }
    if !placed {
        ranges.push(Range { inside: place, outside: own, count: 1 });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[(u32, u32, u32)]) -> Vec<Range> {
        all.iter().map(|&(inside, outside, count)| Range { inside, outside, count }).collect()
    }

    #[test]
    fn own_id_has_the_place_that_was_asked_for_and_every_subordinate_id_is_used_once() {
        let one = [(100_000, 65_536)];
        assert_eq!(arrange(1000, 0, &one), ranges(&[(0, 1000, 1), (1, 100_000, 65_536)]));
        assert_eq!(arrange(1000, 33, &one), ranges(&[(0, 100_000, 33), (33, 1000, 1), (34, 100_033, 65_503)]));
        let two = [(100_000, 10), (300_000, 10)];
        assert_eq!(arrange(1000, 0, &two), ranges(&[(0, 1000, 1), (1, 100_000, 10), (11, 300_000, 10)]));
        assert_eq!(arrange(1000, 10, &two), ranges(&[(0, 100_000, 10), (10, 1000, 1), (11, 300_000, 10)]));
        assert_eq!(arrange(1000, 500, &[(1, 10)]), ranges(&[(0, 1, 10), (500, 1000, 1)]));
    }

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let text = "other:1:10\nme:100000:65536\n1000:300000:5\nme:7:0\nnonsense\nme:x:y\n";
        assert_eq!(parse(text, 1000, Some("me")), [(100_000, 65_536), (300_000, 5)]);
        assert_eq!(parse(text, 1001, None), []);
    }
}
