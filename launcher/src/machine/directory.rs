//! A machine's two directories: what is known of it, and its sockets.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, getuid};
use serde::{Deserialize, Serialize};

use crate::child;
use crate::failure::{About, Failure};

/// The directories of one machine. Dropping it removes both.
#[derive(Debug)]
pub struct Directory {
    state: PathBuf,
    sockets: PathBuf,
}

/// What `machine.json` tells about a running machine: nothing that the user gave it to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The machine's name.
    pub name: String,
    /// The image reference or directory it runs on.
    pub root: String,
    /// The processes, the supervisor first.
    pub processes: Vec<ProcessRecord>,
}

/// One process of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    /// What it does: `lamina`, `hypervisor`, or the share it serves.
    pub role: String,
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since the host's start.
    pub started: u64,
}

impl ProcessRecord {
    /// The record of a living process.
    #[must_use]
    pub(crate) fn of(role: &str, pid: Pid) -> Option<Self> {
        Some(Self { role: role.to_owned(), pid: pid.as_raw_nonzero().get(), started: child::start_time(pid)? })
    }

    /// Whether it still runs; another process under the same id does not count.
    #[must_use]
    pub(crate) fn is_alive(&self) -> bool {
        Pid::from_raw(self.pid).and_then(child::start_time) == Some(self.started)
    }
}

impl Directory {
    /// Makes the directories of a machine called `name`.
    ///
    /// # Errors
    /// A machine of that name runs, or a directory cannot be made.
    pub fn create(name: &str) -> Result<Self, Failure> {
        let machines = state_home()?.join("machines");
        make_private(&machines, true)?;
        let socket_home = socket_home()?;
        sweep(&machines, &socket_home);
        let state = machines.join(name);
        DirBuilder::new().mode(0o700).create(&state).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::new(format_args!("machine {name}"), "it is already running").remedy("choose another --name")
            }
            _ => Failure::new(state.display(), error),
        })?;
        let mut directory = Self { state, sockets: PathBuf::new() };
        // Recorded at once: until then, a second machine of this name would take us for a left-over.
        directory.record(name, "", &[])?;
        let sockets = socket_home.join(name);
        let _ = fs::remove_dir_all(&sockets);
        make_private(&sockets, false)?;
        directory.sockets = sockets;
        Ok(directory)
    }

    /// The path of a file of this machine.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Where a view of its root is mounted, for a backend that needs a mount.
    #[must_use]
    pub fn mount_point(&self) -> PathBuf {
        self.file(MOUNT_POINT)
    }

    /// The path of a socket of this machine.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(format!("{name}.sock"))
    }

    /// Where the machine tells what its root was asked: see [`stats_socket`].
    #[must_use]
    pub fn stats_socket(&self) -> PathBuf {
        self.sockets.join(STATS_SOCKET)
    }

    /// Writes `machine.json`, by a rename.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn record(&self, name: &str, root: &str, children: &[ProcessRecord]) -> Result<(), Failure> {
        let ourselves = ProcessRecord::of("lamina", rustix::process::getpid());
        let processes = ourselves.into_iter().chain(children.iter().cloned()).collect();
        let record = Record { name: name.to_owned(), root: root.to_owned(), processes };
        let path = self.file("machine.json");
        let mut file = tempfile::NamedTempFile::new_in(&self.state).about(path.display())?;
        serde_json::to_writer_pretty(&mut file, &record).about(path.display())?;
        file.persist(&path).about(path.display())?;
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for path in [&self.state, &self.sockets].into_iter().filter(|path| !path.as_os_str().is_empty()) {
            if let Err(error) = fs::remove_dir_all(path) {
                tracing::warn!("{}: cannot be removed: {error}", path.display());
            }
        }
    }
}

/// The name of the socket at which a machine's root answers with its counters.
const STATS_SOCKET: &str = "stats";

/// The socket at which the root of the machine called `name` answers with its counters, while that machine runs.
///
/// # Errors
/// This user has no directory for sockets.
pub fn stats_socket(name: &str) -> Result<PathBuf, Failure> {
    Ok(socket_home()?.join(name).join(STATS_SOCKET))
}

/// The name of a machine's mount point in its directory.
const MOUNT_POINT: &str = "root";

/// Removes what killed launchers left behind: their processes are gone with them, their files and mounts are
/// not. What cannot be removed is left for the next time.
fn sweep(machines: &Path, sockets: &Path) {
    for state in fs::read_dir(machines).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if !is_running(&state) && is_old(&state) {
            // Fails where nothing is mounted.
            let _ = composefs_fuse::linux::unmount(&state.join(MOUNT_POINT), composefs_fuse::linux::Unmount::Lazy);
            let _ = fs::remove_dir_all(&state);
            let _ = fs::remove_dir_all(sockets.join(state.file_name().unwrap_or_default()));
        }
    }
}

/// Whether a directory without a record is more than one that is just being made.
fn is_old(state: &Path) -> bool {
    let age = fs::metadata(state).and_then(|directory| directory.modified()).map(|made| made.elapsed());
    state.join("machine.json").exists() || matches!(age, Ok(Ok(age)) if age > Duration::from_secs(10))
}

/// Whether the supervisor that made a machine's directory is alive.
fn is_running(state: &Path) -> bool {
    let record =
        fs::read(state.join("machine.json")).ok().and_then(|json| serde_json::from_slice::<Record>(&json).ok());
    record.is_some_and(|record| record.processes.first().is_some_and(ProcessRecord::is_alive))
}

/// `$XDG_STATE_HOME/lamina`, else `~/.local/state/lamina`.
fn state_home() -> Result<PathBuf, Failure> {
    xdg("XDG_STATE_HOME", ".local/state")
}

/// `$XDG_CACHE_HOME/lamina`, else `~/.cache/lamina`.
///
/// # Errors
/// Neither variable is set.
pub fn cache_home() -> Result<PathBuf, Failure> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// The base directory that `variable` names (relative ones are to be ignored, says the XDG specification).
fn xdg(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match set(variable).or_else(|| Some(set("HOME")?.join(below_home))) {
        Some(base) => Ok(base.join("lamina")),
        None => Err(Failure::new("HOME", "it is not set").remedy(format_args!("set HOME or {variable}"))),
    }
}

/// A short directory for sockets, whose paths have at most 107 bytes: `$XDG_RUNTIME_DIR/lamina`, else
/// `/tmp/lamina-<uid>`, which must be ours alone: who can connect to a machine's sockets controls it.
fn socket_home() -> Result<PathBuf, Failure> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usable = |path: &PathBuf| path.is_absolute() && path.is_dir();
    let home = match runtime.filter(usable) {
        Some(runtime) => runtime.join("lamina"),
        None => PathBuf::from(format!("/tmp/lamina-{}", getuid().as_raw())),
    };
    make_private(&home, false)?;
    let found = fs::symlink_metadata(&home).about(home.display())?;
    if !found.is_dir() || found.uid() != getuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(Failure::new(home.display(), "it is not a private directory of this user")
            .remedy("remove it, or set XDG_RUNTIME_DIR"));
    }
    Ok(home)
}

fn make_private(path: &Path, parents: bool) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).recursive(parents).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.about(path.display()),
    }
}

/// Whether `name` can name a machine: 1 to 40 letters, digits, `-`, `_` and `.`, the first a letter or
/// digit. It becomes a host name and part of socket paths.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A name for a machine that was given none: `vm-` and eight random hex digits.
#[must_use]
pub fn random_name() -> String {
    let mut bytes = [0_u8; 4];
    // Never fails for so few bytes once the host has booted (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("vm-{:08x}", u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_host_names_and_paths() {
        for good in ["a", "web-1", "A.b_c", &"x".repeat(40), &random_name()] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", &"x".repeat(41)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_record_tells_a_living_process_from_another_under_its_id() {
        let ours = ProcessRecord::of("lamina", rustix::process::getpid()).unwrap();
        assert!(ours.is_alive());
        assert!(!ProcessRecord { started: ours.started + 1, ..ours }.is_alive());
    }

    #[test]
    fn a_directory_of_a_dead_supervisor_is_not_running() {
        let state = tempfile::tempdir().unwrap();
        assert!(!is_running(state.path()));
        let record = |started| Record {
            name: "m".into(),
            root: String::new(),
            processes: vec![ProcessRecord {
                started,
                ..ProcessRecord::of("lamina", rustix::process::getpid()).unwrap()
            }],
        };
        let write = |record: &Record| fs::write(state.path().join("machine.json"), serde_json::to_vec(record).unwrap());
        write(&record(1)).unwrap();
        assert!(!is_running(state.path()));
    }
}
