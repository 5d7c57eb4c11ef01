//! Confinement of programs that read what a guest writes: what such a program may reach, whatever the program is.
//!
//! A program is started through `lamina __confine` ([`enter`]), which leads it into namespaces of its own and a root with
//! nothing in it but what a [`Confinement`] lists, gives up every privilege, sets limits and a filter of system calls,
//! and becomes the program. `confinement_probe` finds out, by starting a program, which parts of this the host permits.

mod account;
mod choice;
mod encoding;
pub(crate) mod enter;
mod environment;
mod landlock;
mod limits;
mod new_root;
mod seccomp;
mod support;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, chownat};
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

pub(crate) use account::{Account, is_root_of_the_host, unprivileged};
pub(crate) use choice::{Decision, Level};
pub(crate) use encoding::CONFINE;
pub(crate) use encoding::command;
pub(crate) use environment::Environment;
pub(crate) use landlock::is_available as has_landlock;
pub(crate) use new_root::NewRoot;
pub(crate) use support::{Lack, Support};

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;

/// What a program may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confinement {
    /// The namespaces that it gets for itself.
    pub(crate) namespaces: Vec<Namespace>,
    /// Files and directories that it may read, and whose programs it may become. Those that do not exist are left out.
    pub(crate) readable: Vec<PathBuf>,
    /// Files, directories and sockets that it may also write.
    pub(crate) writable: Vec<PathBuf>,
    /// Devices of the host. Those that do not exist are left out.
    pub(crate) devices: Vec<PathBuf>,
    /// The most files that it may have open.
    pub(crate) open_files: u64,
    /// The most processes and threads that it may have.
    pub(crate) processes: u64,
    /// Whether system calls that it does not need are refused, and paths that it does not need by Landlock as well.
    pub(crate) filters: bool,
    /// Whom it runs as, if this process is root.
    pub(crate) account: Option<Account>,
    /// Its working directory, if that is not the root. It is made, and belongs to the account: this is where a server
    /// whose account cannot follow the path makes its socket.
    pub(crate) directory: Option<PathBuf>,
    /// Whether it needs a `/proc`, for which it needs a namespace of process ids.
    pub(crate) proc: bool,
    /// Whether it reads files whatever their modes are (`CAP_DAC_READ_SEARCH`), in the root that it has. For root only.
    pub(crate) reads_all: bool,
}

/// A program to start, and its confinement, if it has one.
pub(crate) type Confined = (CommandLine, Option<Confinement>);

/// A kind of namespace of the kernel (`namespaces(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Namespace {
    /// User and group ids, and the privileges that come with them.
    User,
    /// File systems: with it comes a root of its own.
    Mount,
    /// Network devices, addresses and ports.
    Network,
    /// Process ids.
    Pid,
    /// System V and POSIX message queues and shared memory.
    Ipc,
    /// The host's name.
    Uts,
}

impl Namespace {
    /// All of them. The first is what permits an ordinary user the others.
    pub(crate) const ALL: [Self; 6] = [Self::User, Self::Mount, Self::Network, Self::Pid, Self::Ipc, Self::Uts];

    /// The name that people and `unshare(1)` use.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Network => "network",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|namespace| namespace.name() == name)
    }

    const fn flag(self) -> UnshareFlags {
        match self {
            Self::User => UnshareFlags::NEWUSER,
            Self::Mount => UnshareFlags::NEWNS,
            Self::Network => UnshareFlags::NEWNET,
            Self::Pid => UnshareFlags::NEWPID,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
        }
    }
}

/// Where programs, their libraries and what the dynamic linker reads are: the host's own and those of Nix and Guix.
const PROGRAMS: [&str; 11] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/libx32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/nix/store",
    "/gnu/store",
];

/// Devices that any program may use.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];

impl Confinement {
    /// Returns what every program needs to start: itself, its libraries and harmless devices. It may have few files open
    /// and few processes.
    #[must_use]
    pub(crate) fn of_program(program: &Path) -> Self {
        Self {
            namespaces: Namespace::ALL.into(),
            readable: PROGRAMS.into_iter().map(PathBuf::from).chain(around(program)).collect(),
            devices: DEVICES.map(PathBuf::from).into(),
            open_files: 1024,
            processes: 1024,
            filters: true,
            ..Self::default()
        }
    }

    /// Returns the same as far as it was decided for, or `None` if the program is not confined. If root starts it, it is
    /// not root, and reaches its files by a root of its own.
    #[must_use]
    pub(crate) fn decided(mut self, decision: &Decision) -> Option<Self> {
        let account = decision.account.clone();
        match &decision.support {
            Some(support) => self.namespaces.retain(|namespace| support.namespaces.contains(namespace)),
            None if account.is_none() => return None,
            None => (self.namespaces, self.filters) = (vec![Namespace::Mount], false),
        }
        Some(Self { account, ..self })
    }

    /// Returns what a server needs that confines itself, if root starts it: it runs as another user, and makes its socket
    /// in `directory`.
    #[must_use]
    pub(crate) fn of_server(account: Option<Account>, directory: PathBuf) -> Option<Self> {
        let account = Some(account?);
        let (open_files, processes) = (u64::MAX, u64::MAX);
        Some(Self { account, directory: Some(directory), open_files, processes, ..Self::default() })
    }

    /// Lets the user that the program runs as write to what it may write to.
    ///
    /// # Errors
    /// A file's owner cannot be changed.
    pub(crate) fn hand_over(&self) -> Result<(), Failure> {
        let Some(Account { uid, gid, .. }) = &self.account else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        if let Some(directory) = &self.directory {
            make_private(directory).about(directory.display())?;
        }
        self.writable.iter().chain(&self.directory).try_for_each(|path| {
            chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).about(path.display())
        })
    }

    /// Leaves out a namespace.
    #[must_use]
    pub(crate) fn without(mut self, namespace: Namespace) -> Self {
        self.namespaces.retain(|own| *own != namespace);
        self
    }

    /// Whether the program gets a namespace of this kind.
    #[must_use]
    pub(crate) fn has(&self, namespace: Namespace) -> bool {
        self.namespaces.contains(&namespace)
    }
}

/// Keeps the memory of this process, and of the programs that it starts, out of core dumps: it holds what guests are given
/// as secrets.
///
/// # Errors
/// The limit cannot be set.
pub(crate) fn no_core_dumps() -> Result<(), Failure> {
    limits::no_core_dumps(&enter::open_proc()?).about("core dumps")
}

/// Returns the path of its socket for a server. One that runs as another user starts in the directory of the socket:
/// see [`Confinement::directory`].
#[must_use]
pub(crate) fn socket_in_place(socket: &Path, account: Option<&Account>) -> PathBuf {
    let name = account.and_then(|_| socket.file_name());
    name.map_or_else(|| socket.to_owned(), PathBuf::from)
}

/// Makes a directory that only its owner can enter, if it does not exist.
fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(directory)
}

/// Returns what a program outside the host's own directories needs besides itself: the directory that it is in, because
/// it may be a script that reads others there, and the libraries and data that are installed with it.
///
/// The directory is left out if it is one that holds users' other files.
fn around(program: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    for path in [program, &real] {
        let Some(directory) = path.parent() else { continue };
        if PROGRAMS.iter().any(|shown| path.starts_with(shown)) {
            continue;
        }
        if !holds_much(directory) {
            found.push(directory.to_owned());
            let prefix = directory.parent().unwrap_or(directory);
            found.extend(["lib", "lib64", "libexec", "share/qemu"].map(|data| prefix.join(data)));
        }
        found.push(path.to_owned());
    }
    found
}

/// Whether a directory is, or is above, the home of this user or one where anybody may put files.
fn holds_much(directory: &Path) -> bool {
    let home = std::env::home_dir().unwrap_or_default();
    let real = home.canonicalize().unwrap_or_default();
    [home.as_path(), &real, Path::new("/tmp"), Path::new("/var/tmp"), Path::new("/dev/shm")]
        .into_iter()
        .any(|crowded| crowded.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_host_needs_nothing_else_and_another_one_its_surroundings() {
        assert_eq!(around(Path::new("/usr/bin/env")), Vec::<PathBuf>::new());
        let prefix = tempfile::tempdir().unwrap();
        let (bin, program) = (prefix.path().join("bin"), prefix.path().join("bin/q"));
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(&program, "").unwrap();
        let found = around(&program);
        assert!(found.contains(&bin) && found.contains(&prefix.path().join("lib")), "{found:?}");
        let real = Confinement::of_program(&program);
        assert!(real.readable.contains(&program) && real.writable.is_empty());
    }

    #[test]
    fn directory_with_other_files_of_users_is_not_shown_for_a_program_in_it() {
        assert!(holds_much(Path::new("/tmp")) && holds_much(Path::new("/")));
        assert!(holds_much(&std::env::home_dir().unwrap()));
        assert!(!holds_much(Path::new("/opt/qemu/bin")));
        assert_eq!(around(Path::new("/tmp/q")), [Path::new("/tmp/q"), Path::new("/tmp/q")]);
    }

    #[test]
    fn names_of_namespaces_lead_back_to_them() {
        for namespace in Namespace::ALL {
            assert_eq!(Namespace::of(namespace.name()), Some(namespace));
        }
    }
}
