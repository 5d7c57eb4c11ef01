//! The program virtiofsd: which version is installed, which options it has, and its command line for each kind of root.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::command_line::CommandLine;
use crate::host::probe_cache::ProbeCache;

/// Where distributions install it, outside `PATH`.
const FURTHER: [&str; 4] = ["/usr/local/bin", "/usr/libexec", "/usr/lib", "/usr/lib/virtiofsd"];

const REMEDY: &str =
    "install the Rust virtiofsd, 1.10 or newer (Debian 13: apt-get install virtiofsd; else: cargo install virtiofsd)";

/// A virtiofsd and the options it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Virtiofsd {
    pub(crate) program: PathBuf,
    /// The option names in its help text.
    options: Vec<String>,
}

/// Which root is served. Both are read-only and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A tree whose owners are right.
    Root,
    /// A tree that belongs to this user. In the guest, all of it belongs to root.
    OwnRoot,
}

/// The user that runs a virtiofsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// The most files that the user's processes may have open.
    pub(crate) open_files: u64,
}

impl Owner {
    /// The user of this process.
    #[must_use]
    pub(crate) fn ourselves() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        Self {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            open_files: limit.map_or(MOST_OPEN_FILES, |limit| limit.min(MOST_OPEN_FILES)),
        }
    }
}

/// What virtiofsd itself asks for at most.
const MOST_OPEN_FILES: u64 = 1_000_000;

impl Virtiofsd {
    /// Finds the program and reads which options it has.
    ///
    /// # Errors
    /// It is missing, does not run, or is the one written in C, which only root can use.
    pub(crate) fn find() -> Result<Self, Failure> {
        Self::examine(Self::locate()?)
    }

    /// Does the same, but uses the probe cache if the program has not changed.
    ///
    /// # Errors
    /// As for [`Virtiofsd::find`].
    pub(crate) fn cached(probes: &mut ProbeCache) -> Result<Self, Failure> {
        let program = Self::locate()?;
        probes.recall("virtiofsd", &[&program.clone()], || Self::examine(program))
    }

    fn locate() -> Result<PathBuf, Failure> {
        child::find("virtiofsd", &FURTHER)
            .ok_or_else(|| Failure::new("virtiofsd", "not found in PATH or /usr/libexec").with_hint(REMEDY))
    }

    fn examine(program: PathBuf) -> Result<Self, Failure> {
        let output = Command::new(&program).arg("--help").output().about(program.display())?;
        let options = parse_options(&String::from_utf8_lossy(&output.stdout));
        let found = Self { program, options };
        match ["shared-dir", "sandbox", "cache"].iter().find(|name| !found.has(name)) {
            Some(name) => {
                let cause = format!("it has no option --{name}");
                Err(Failure::new(found.program.display(), cause).with_hint(REMEDY))
            }
            None => Ok(found),
        }
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|have| have == option)
    }

    /// Returns the command line that serves `directory` on `socket` for `purpose`, run by `owner`.
    ///
    /// # Errors
    /// This virtiofsd cannot serve a read-only directory.
    pub(crate) fn command(
        &self,
        directory: &Path,
        socket: &Path,
        purpose: Purpose,
        owner: &Owner,
    ) -> Result<CommandLine, Failure> {
        let mut command = CommandLine::new(&self.program)
            .arg("--shared-dir")
            .arg(directory)
            .arg("--socket-path")
            .arg(socket)
            .args(["--log-level", "warn"]);
        if self.has("inode-file-handles") {
            // File handles become stale on a FUSE mount, and an ordinary user cannot open them at all.
            command = command.arg("--inode-file-handles=never");
        }
        if !self.has("readonly") {
            let cause = "it has no option --readonly, so the guest could write to its root";
            return Err(Failure::new(self.program.display(), cause).with_hint("install virtiofsd 1.10 or newer"));
        }
        command = command.args(["--readonly", "--cache", "always"]);
        if self.has("rlimit-nofile") {
            // It holds one descriptor for each inode that the guest knows. If the host allows fewer than its default,
            // it refuses the default with a warning.
            command = command.arg(format!("--rlimit-nofile={}", owner.open_files));
        }
        if self.has("xattr") {
            command = command.arg("--xattr");
        }
        let sandbox = match purpose {
            // In a user namespace, the owners of the image would not be mapped.
            Purpose::Root => "none",
            Purpose::OwnRoot => "namespace",
        };
        command = command.args(["--sandbox", sandbox]);
        if sandbox == "namespace" && owner.uid != 0 {
            // Root in the guest is this user, so files that it creates belong to this user.
            command =
                command.args([format!("--uid-map=:0:{}:1:", owner.uid), format!("--gid-map=:0:{}:1:", owner.gid)]);
        }
        Ok(command)
    }
}

fn parse_options(help: &str) -> Vec<String> {
    let words = help.split(|c: char| c.is_whitespace() || "=,[]<>".contains(c));
    words.filter_map(|word| word.strip_prefix("--")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Options:\n  --shared-dir <SHARED_DIR>\n  --readonly\n  --sandbox <SANDBOX>\n  --cache <CACHE>\n  --inode-file-handles=<X>\n  --rlimit-nofile <X>\n  --xattr\n";

    fn example() -> Virtiofsd {
        Virtiofsd { program: "virtiofsd".into(), options: parse_options(HELP) }
    }

    fn owner(uid: u32) -> Owner {
        Owner { uid, gid: uid, open_files: 20_000 }
    }

    fn text(purpose: Purpose, uid: u32) -> String {
        example().command(Path::new("/d"), Path::new("/s"), purpose, &owner(uid)).unwrap().to_shell()
    }

    #[test]
    fn the_root_is_read_only_cached_and_keeps_its_owners() {
        insta::assert_snapshot!(text(Purpose::Root, 1000));
    }

    #[test]
    fn a_users_own_tree_belongs_to_root_in_the_guest() {
        insta::assert_snapshot!(text(Purpose::OwnRoot, 1000));
    }

    #[test]
    fn a_virtiofsd_that_cannot_enforce_read_only_is_not_asked_to() {
        let mut old = example();
        old.options.retain(|option| option != "readonly");
        let paths = (Path::new("/d"), Path::new("/s"));
        assert!(old.command(paths.0, paths.1, Purpose::Root, &owner(0)).is_err());
    }
}
