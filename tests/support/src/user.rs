//! The user that runs a program under test.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The ordinary user that `scripts/setup` makes.
pub const TEST_USER: &str = "lamina-test";

/// The user that runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The user of the tests, which must be root.
    Root,
    /// [`TEST_USER`], with no capability and no group but its own.
    User,
}

impl Actor {
    /// The actor's uid and gid.
    ///
    /// # Panics
    /// When the tests do not run as root, or the test user is missing.
    #[must_use]
    pub fn ids(self) -> (u32, u32) {
        assert!(rustix::process::geteuid().is_root(), "the end-to-end tests need root: run scripts/test as root");
        match self {
            Self::Root => (0, 0),
            Self::User => passwd_ids(TEST_USER),
        }
    }

    /// A command that runs `program` as this actor.
    #[must_use]
    pub fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if self == Self::User {
            let (uid, gid) = self.ids();
            // Setting a uid as root also drops the supplementary groups.
            command.gid(gid).uid(uid);
        }
        command
    }

    /// Runs `step` with the credentials of this actor, in a thread of its own. Processes that it starts inherit them.
    ///
    /// # Panics
    /// When the credentials cannot be set, or `step` panics.
    pub fn act<T: Send>(self, step: impl FnOnce() -> T + Send) -> T {
        let (uid, gid) = self.ids();
        let act = move || {
            // Linux keeps credentials for each thread; only the C library's wrappers change those of all.
            if self == Self::User {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                set_thread_groups(&[]).expect("no supplementary group");
                set_thread_res_gid(gid, gid, gid).expect("the actor's group");
                set_thread_res_uid(uid, uid, uid).expect("the actor's user");
            }
            step()
        };
        let outcome = std::thread::scope(|scope| scope.spawn(act).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes this actor the owner of a path.
    ///
    /// # Panics
    /// When the owner cannot be changed.
    pub fn own(self, path: &Path) {
        let (uid, gid) = self.ids();
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn passwd_ids(name: &str) -> (u32, u32) {
    let table = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let ids = table.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [user, _, uid, gid, ..] if user == name => Some((uid.parse().ok()?, gid.parse().ok()?)),
        _ => None,
    });
    ids.unwrap_or_else(|| panic!("there is no user {name}: run scripts/setup"))
}
