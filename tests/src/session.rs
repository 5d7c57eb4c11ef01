//! The program `lamina` with its own store and home directory, run as root or as an ordinary user.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use layer_store::FaultPoint;
use rustix::process::Pid;
use serde_json::Value;
use test_support::RingsOn;
use test_support::polling::beside;

use crate::invocation::{Finished, Started};
use crate::layout::Layer;
use crate::traces::{MARK, Traces};
use crate::{Actor, Engine, Transport, TreeDump, programs, until};

/// The variable that names the accelerator of all guests, if it is not TCG.
pub const ACCELERATOR: &str = "LAMINA_TEST_ACCELERATOR";

/// The variable that names one of the test user's stores to start from, if importing images takes too long. Its files
/// are hard-linked into each session's store.
pub const FILLED_STORE: &str = "LAMINA_TEST_STORE";

/// A directory for everything that one test's `lamina` may write:
/// `store`, `home`, `run` (XDG_RUNTIME_DIR), `state` (XDG_STATE_HOME), `tmp` (TMPDIR), and `work` for the test itself.
#[derive(Debug)]
pub struct Session {
    actor: Actor,
    directory: tempfile::TempDir,
    programs: Vec<(&'static str, PathBuf)>,
    /// Directories in front of those in `PATH`.
    path: Vec<PathBuf>,
}

impl Session {
    /// An empty store and home for `actor`.
    ///
    /// # Panics
    /// When a program has not been built, or the directory cannot be made.
    #[must_use]
    pub fn new(actor: Actor) -> Self {
        // The path is short because a socket's path has at most 107 bytes. The user can reach everything below it.
        let directory = tempfile::Builder::new().prefix("lamina-").tempdir_in("/tmp").expect("a directory in /tmp");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))
            .expect("mode of the session's directory");
        for name in ["bin", "store", "home", "run", "state", "tmp", "work"] {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).expect("a directory of the session");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))
                .expect("mode of a directory of the session");
            actor.own(&path);
        }
        if let Some(store) = std::env::var_os(FILLED_STORE).filter(|_| actor == Actor::User) {
            let copied = actor
                .command(Path::new("cp"))
                .args(["-al", "-T"])
                .arg(store)
                .arg(directory.path().join("store"))
                .status();
            assert!(copied.is_ok_and(|status| status.success()), "the store to start from can be linked");
        }
        let bin = directory.path().join("bin");
        let programs = ["lamina", "composefs-fuse", "tree-dump"]
            .map(|name| (name, programs::reachable(&programs::built(name), &bin)))
            .into();
        let engines = directory.path().join("engines");
        std::fs::create_dir(&engines).expect("a directory of the session");
        let path = if Engine::offer_all(&engines) { vec![engines] } else { Vec::new() };
        Self { actor, directory, programs, path }
    }

    /// A session of the ordinary user.
    #[must_use]
    pub fn user() -> Self {
        Self::new(Actor::User)
    }

    /// The directory that holds everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.directory().join("store")
    }

    /// Creates a directory for the test's own files, owned by the actor.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn work(&self, name: &str) -> PathBuf {
        let path = self.directory().join("work").join(name);
        std::fs::create_dir_all(&path).expect("a directory of the test");
        self.actor.own(&path);
        path
    }

    /// What this session may leave behind.
    #[must_use]
    pub fn traces(&self) -> Traces {
        Traces { directory: self.directory().to_owned() }
    }

    /// A command of the actor for one of this workspace's programs (`lamina`, `composefs-fuse`, `tree-dump`), in the
    /// session's environment, without input.
    ///
    /// # Panics
    /// When there is no such program.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let found = self.programs.iter().find(|(known, _)| *known == name);
        let (_, path) = found.unwrap_or_else(|| panic!("no program {name}"));
        self.command(path)
    }

    /// A command of the actor in the session's environment, without input.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.actor.command(program);
        let below = |name: &str| self.directory().join(name);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = self.path.iter().cloned().chain(std::env::split_paths(&path));
        command
            .env_clear()
            .env("PATH", std::env::join_paths(path).expect("directories that were in PATH"))
            .env("LANG", "C.UTF-8")
            .env("LAMINA_STORE", self.store())
            .env("HOME", below("home"))
            .env("XDG_RUNTIME_DIR", below("run"))
            .env("XDG_STATE_HOME", below("state"))
            .env("TMPDIR", below("tmp"))
            .env(MARK, self.directory())
            .current_dir(below("work"))
            .stdin(Stdio::null());
        command
    }

    /// `lamina` with arguments. Tests ask for `--accel tcg`; [`ACCELERATOR`] replaces that.
    pub fn lamina<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.program("lamina");
        let accelerator = std::env::var_os(ACCELERATOR);
        let mut after_accel = false;
        for argument in arguments {
            let argument = argument.as_ref();
            let replaced = accelerator.as_deref().filter(|_| after_accel && argument == "tcg");
            command.arg(replaced.unwrap_or(argument));
            after_accel = argument == "--accel";
        }
        command
    }

    /// Runs `lamina` to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        Finished::of(&mut self.lamina(arguments))
    }

    /// Runs `lamina`, which must succeed. Returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        self.run(arguments).succeeded().stdout
    }

    /// Imports an OCI layout's image `latest` as `reference`, a name that the other commands accept.
    ///
    /// # Panics
    /// When the import fails.
    pub fn import(&self, layout: &Path, reference: &str) {
        self.ok([OsStr::new("import"), layout.as_os_str(), OsStr::new("--tag"), OsStr::new(reference)]);
    }

    /// Mounts an image at a new mount point, `work/NAME`, as the actor and by the transport of the test.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(&self, reference: &str, name: &str) -> PathBuf {
        self.mount_with(reference, name, &[])
    }

    /// The same with options of `lamina mount`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount_with(&self, reference: &str, name: &str, options: &[&str]) -> PathBuf {
        let point = self.work(name);
        let mut command = self.lamina(["mount", reference]);
        command.arg(&point).args(options);
        let transport = Transport::current();
        if transport == Transport::Fuser {
            command.args(["--transport", transport.word()]);
        }
        let rings = (transport == Transport::Rings).then(|| RingsOn::new().expect("FUSE over io_uring"));
        Finished::of(&mut command).succeeded();
        match transport {
            // A thread has its name a moment after it was started.
            Transport::Device => until("our own loop to serve", || self.has_thread(|name| name.starts_with("fuse-"))),
            Transport::Rings => {
                until("requests to come over io_uring", || self.has_thread(|name| name.starts_with("fuse-ring-")));
            }
            Transport::Fuser => until("the crate fuser to serve", || self.has_thread(|name| name == "fuser")),
        }
        drop(rings);
        point
    }

    /// Whether a process of the session has a thread with such a name.
    fn has_thread(&self, is_one: impl Fn(&str) -> bool) -> bool {
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        self.traces().processes().iter().any(|process| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid.as_raw_nonzero()));
            tasks.into_iter().flatten().flatten().any(|task| name(task).is_ok_and(|name| is_one(name.trim_end())))
        })
    }

    /// Unmounts with `lamina umount`.
    ///
    /// # Panics
    /// When it fails.
    pub fn umount(&self, point: &Path) {
        self.ok([OsStr::new("umount"), point.as_os_str()]);
    }

    /// The tree below `root` as the actor sees it.
    ///
    /// # Panics
    /// When it cannot be read whole.
    #[must_use]
    pub fn tree(&self, root: &Path) -> TreeDump {
        let finished = Finished::of(self.program("tree-dump").arg(root)).succeeded();
        TreeDump::parse(&finished.stdout).expect("tree-dump prints its own format")
    }

    /// Starts a command whose output is kept, to be ended with [`Started::finish`].
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(&self, mut command: Command) -> Started {
        let line = format!("{command:?}");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Started { child: child.unwrap_or_else(|error| panic!("{line}: {error}")), line }
    }
}

impl Session {
    /// `lamina` with arguments and a fault that ends it (`name`) or, with `stops`, stops it (`name:stop`) at a point.
    pub fn faulty(&self, point: FaultPoint, stops: bool, arguments: &[&str]) -> Command {
        let mut command = self.lamina(arguments);
        command.env("LAMINA_FAULT", format!("{}{}", point.name(), if stops { ":stop" } else { "" }));
        command
    }

    /// The JSON that `lamina` prints.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A machine as `lamina ps --all --json` prints it, or null.
    ///
    /// # Panics
    /// When the list cannot be read.
    #[must_use]
    pub fn seen(&self, machine: &str) -> Value {
        let rows: Vec<Value> = serde_json::from_str(&self.ok(["ps", "--all", "--json"])).expect("JSON of ps");
        rows.into_iter().find(|row| row["name"] == machine).unwrap_or(Value::Null)
    }

    /// The id of a machine's process with this role.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn process(&self, machine: &str, role: &str) -> Pid {
        let seen = self.seen(machine);
        let processes = seen["processes"].as_array().expect("processes of a machine");
        let found = processes.iter().find(|process| process["role"] == role);
        let pid = found.and_then(|process| process["pid"].as_i64()).unwrap_or_else(|| panic!("no {role} in {seen}"));
        Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id")
    }

    /// A machine's directory.
    #[must_use]
    pub fn machine_directory(&self, machine: &str) -> PathBuf {
        self.directory().join("state/lamina/machines").join(machine)
    }

    /// Runs a shell script in a running machine: `lamina exec NAME -- /bin/sh -c SCRIPT`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn exec(&self, machine: &str, script: &str) -> Finished {
        self.run(["exec", machine, "--", "/bin/sh", "-c", script])
    }

    /// A file as the actor reads it. Another process does the reading: if this one had the file open, so would any
    /// process that another thread starts at that moment, and a mount could then not be unmounted.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn read(&self, path: &Path) -> Vec<u8> {
        let read = self.command(&programs::installed("cat")).arg(path).output().expect("cat");
        assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
        read.stdout
    }

    /// The file `name` of a layer in the store.
    #[must_use]
    pub fn layer_file(&self, layer: &Layer, name: &str) -> PathBuf {
        self.store().join("layers").join(layer.diff_id().replace(':', "/")).join(name)
    }

    /// Waits until the session has no process. The server of a mount ends a moment after the mount; until then its
    /// lease holds what it used.
    pub fn await_no_process(&self) {
        until("the session's processes to end", || self.traces().processes().is_empty());
    }

    /// Waits until no command line of the session contains `text`.
    pub fn await_no_process_of(&self, text: &str) {
        let is_there = || self.traces().processes().iter().any(|process| process.command.contains(text));
        until(&format!("the processes of {text} to end"), || !is_there());
    }

    /// Does `work` while garbage is collected in a loop, with a pause after each collection. Returns what the work
    /// returned, and the number of collections.
    ///
    /// # Panics
    /// When a collection fails, or the work panics.
    pub fn beside_a_collector<T>(&self, pause: Duration, work: impl FnOnce() -> T) -> (T, usize) {
        beside(
            || {
                self.ok(["gc"]);
                std::thread::sleep(pause);
            },
            work,
        )
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.traces().sweep();
    }
}
