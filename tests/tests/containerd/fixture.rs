//! A containerd of the test's own with the snapshotter, and images to run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use end_to_end::layout::Layer;
use end_to_end::programs::{built, installed};
use end_to_end::{Actor, Finished, Layout, Registry, Session, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::grpc::Grpc;
use super::snapshots::{Nothing, Prepare, SERVICE};

/// Longer than what the kernel reads ahead, so that its end is read from the server when it is asked for.
pub(crate) const LARGE: usize = 4 << 20;

/// The image of the process that keeps a pod's namespaces.
pub(crate) const PAUSE: &str = "pause:1";

/// The variable that names a directory with another containerd: `containerd`, `ctr` and `containerd-shim-runc-v2`.
const CONTAINERD: &str = "LAMINA_CONTAINERD";

/// A program of the containerd under test: of the one that is installed, unless [`CONTAINERD`] names another.
pub(crate) fn containerd_program(name: &str) -> PathBuf {
    std::env::var_os(CONTAINERD).map_or_else(|| installed(name), |directory| PathBuf::from(directory).join(name))
}

/// Whether the containerd under test is of version 2.
pub(crate) fn is_version_2() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| {
        let mut version = Command::new(containerd_program("containerd"));
        Finished::of(version.arg("--version")).succeeded().stdout.contains("/v2 ")
    })
}

/// A containerd, the snapshotter and a registry.
pub(crate) struct Node {
    pub(crate) session: Session,
    pub(crate) registry: Registry,
    containerd: Option<Child>,
    snapshotter: Option<Child>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::prepared(|_| {})
    }

    /// Calls `prepare` before anything runs.
    pub(crate) fn prepared(prepare: impl FnOnce(&Session)) -> Self {
        Self::started(prepare, |_| "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]".to_owned())
    }

    /// With the plug-in for Kubernetes, whose images come from the registry.
    pub(crate) fn with_cri() -> Self {
        Self::started(
            |_| {},
            |registry| {
                let pause = registry.name(PAUSE);
                if is_version_2() {
                    // It takes no snapshotter over from an older configuration that names no runtime.
                    return format!(
                        "[plugins.\"io.containerd.cri.v1.runtime\"]\nrestrict_oom_score_adj = true\n\
                         disable_apparmor = true\n[plugins.\"io.containerd.cri.v1.images\"]\n\
                         snapshotter = \"lamina\"\ndisable_snapshot_annotations = false\n\
                         [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {pause:?}"
                    );
                }
                // The options under [containerd] are those of the README.
                format!(
                    "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {pause:?}\nrestrict_oom_score_adj = true\n\
                     disable_apparmor = true\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
                     snapshotter = \"lamina\"\ndisable_snapshot_annotations = false"
                )
            },
        )
    }

    fn started(prepare: impl FnOnce(&Session), plugins: impl FnOnce(&Registry) -> String) -> Self {
        let session = Session::new(Actor::Root);
        prepare(&session);
        let registry = Registry::plain();
        let at = |name: &str| session.directory().join(name).display().to_string();
        let config = format!(
            "version = {}\nroot = {:?}\nstate = {:?}\n{}\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [proxy_plugins.lamina]\ntype = \"snapshot\"\naddress = {:?}\n",
            if is_version_2() { 3 } else { 2 },
            at("containerd"),
            at("run/containerd"),
            plugins(&registry),
            at("c.sock"),
            at("t.sock"),
            at("s.sock"),
        );
        let file = session.work("config").join("config.toml");
        std::fs::write(&file, config).expect("the configuration of containerd");
        let log = std::fs::File::create(session.work("logs").join("containerd")).expect("a log");
        let mut command = session.command(&containerd_program("containerd"));
        if let Some(directory) = std::env::var_os(CONTAINERD) {
            // It looks there for its shim first.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::iter::once(PathBuf::from(directory)).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(path).expect("directories that were in PATH"));
        }
        // What it starts is swept with the session.
        let containerd = command.arg("--config").arg(&file).stdout(Stdio::null()).stderr(log).spawn();
        let containerd = containerd.expect("containerd can be started");
        let mut node = Self { session, registry, containerd: Some(containerd), snapshotter: None };
        node.start_snapshotter();
        node
    }

    /// A command `lamina containerd` with this node's options.
    pub(crate) fn lamina(&self, words: &[&str]) -> Command {
        let mut command = self.session.command(&built("lamina"));
        command.arg("containerd").args(words);
        command
    }

    pub(crate) fn start_snapshotter(&mut self) {
        let at = |name: &str| self.session.directory().join(name).display().to_string();
        let mut command = self.lamina(&["serve", "--verbose", "--address", &at("s.sock")]);
        command.args(["--root", &at("snapshotter"), "--run", &at("run/snapshotter")]);
        let log =
            std::fs::File::options().create(true).append(true).open(self.session.work("logs").join("snapshotter"));
        let child = command.stdout(Stdio::null()).stderr(log.expect("a log")).spawn();
        self.snapshotter = Some(child.expect("the snapshotter can be started"));
        self.await_snapshotter();
    }

    fn await_snapshotter(&self) {
        let socket = self.path("s.sock");
        until("the snapshotter to listen", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        // containerd may wait a few seconds before it connects again.
        until("containerd to reach the snapshotter", || {
            self.ctr(&["snapshot", "--snapshotter", "lamina", "ls"]).status.success()
        });
    }

    /// Starts the snapshotter as systemd does: with a socket that is there before it and stays when it ends.
    pub(crate) fn start_snapshotter_with(&mut self, socket: &std::os::unix::net::UnixListener) {
        // A shell: the variable must have the number of the process that becomes the snapshotter.
        let mut command = self.session.command(&installed("sh"));
        command
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --root \"$1\" --run \"$2\" 3<&0 0</dev/null"]);
        command.arg(built("lamina-containerd")).arg(self.path("snapshotter")).arg(self.path("run/snapshotter"));
        let socket = socket.try_clone().expect("a descriptor");
        let child =
            command.stdin(std::os::fd::OwnedFd::from(socket)).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.snapshotter = Some(child.expect("the snapshotter can be started"));
        self.await_snapshotter();
    }

    /// Ends the snapshotter at once, as a crash does.
    pub(crate) fn kill_snapshotter(&mut self) {
        kill(self.snapshotter.take().expect("a running snapshotter"));
    }

    /// Ends containerd at once: from now on nothing calls the snapshotter.
    pub(crate) fn kill_containerd(&mut self) {
        kill(self.containerd.take().expect("a running containerd"));
    }

    /// Ends the snapshotter as an administrator does.
    pub(crate) fn stop_snapshotter(&mut self) {
        let mut child = self.snapshotter.take().expect("a running snapshotter");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("the snapshotter still runs");
        assert!(child.wait().expect("the end of the snapshotter").success());
    }

    pub(crate) fn ctr_command(&self, words: &[&str]) -> Command {
        let mut command = self.session.command(&containerd_program("ctr"));
        command.arg("--address").arg(self.path("c.sock")).args(words);
        command
    }

    pub(crate) fn ctr(&self, words: &[&str]) -> Finished {
        Finished::of(&mut self.ctr_command(words))
    }

    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let finished = self.ctr(words);
        assert!(finished.status.success(), "{finished}\n{}", self.logs());
        finished.stdout
    }

    /// What containerd and the snapshotter have logged.
    pub(crate) fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(self.session.work("logs").join(name)).unwrap_or_default();
        format!("{}\n{}", log("containerd"), log("snapshotter"))
    }

    /// The words of `ctr image pull` for the registry, without the name of the image. Since version 2, `ctr` leaves a pull to
    /// containerd unless it is told otherwise, and containerd then unpacks only for snapshotters that its configuration
    /// names.
    pub(crate) fn ctr_pull(snapshotter: &'static str) -> Vec<&'static str> {
        let words = ["image", "pull", "--plain-http", "--snapshotter", snapshotter];
        words.into_iter().chain(is_version_2().then_some("--local")).collect()
    }

    /// Pulls an image by `ctr image pull`, which unpacks it.
    pub(crate) fn pull_by_ctr(&self, snapshotter: &'static str, reference: &str) {
        self.ok(&[&Self::ctr_pull(snapshotter)[..], &[reference]].concat());
    }

    /// Pushes an image of these layers. Returns its name.
    pub(crate) fn push(&self, name: &str, layers: &[Layer]) -> String {
        self.registry.push_layout(Layout::of(layers).path(), name, "1");
        self.registry.name(&format!("{name}:1"))
    }

    /// `lamina containerd pull`, as JSON.
    pub(crate) fn pull(&self, reference: &str) -> Value {
        let mut command = self.lamina(&["pull", "--json", reference, "--address"]);
        let finished = Finished::of(command.arg(self.session.directory().join("c.sock"))).succeeded();
        serde_json::from_str(&finished.stdout).expect("JSON of a pull")
    }

    /// Where the node's programs listen and keep what they know.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.session.directory().join(name)
    }

    fn run_words(&self, options: &[&str], reference: &str, id: &str, script: &str) -> Vec<String> {
        let root = self.session.directory().join("runc").display().to_string();
        let words = ["run", "--snapshotter", "lamina", "--runc-root", &root];
        let command = [reference, &self.id(id), "/bin/sh", "-ec", script];
        words.iter().chain(options).chain(&command).map(|&word| word.to_owned()).collect()
    }

    /// Container ids name groups of processes of the whole host, so they differ between tests.
    pub(crate) fn id(&self, name: &str) -> String {
        let session = self.session.directory().file_name().expect("a name").to_string_lossy().into_owned();
        format!("{session}-{name}")
    }

    /// Runs a script in a new container of an image, which must succeed. Returns its output.
    pub(crate) fn run(&self, reference: &str, id: &str, script: &str) -> String {
        let words = self.run_words(&["--rm"], reference, id, script);
        self.ok(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a container that sleeps.
    pub(crate) fn start(&self, reference: &str, id: &str) {
        let words = self.run_words(&["--detach", "--null-io"], reference, id, "exec sleep 1000");
        self.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Runs a script in a running container. Returns its output.
    pub(crate) fn exec(&self, id: &str, script: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        const END: &str = "<end of the output>";
        let process = format!("exec-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // `ctr` may end before it has printed everything, so the shim writes to a file. Errors would go there too.
        let log = self.session.work("outputs").join(&process);
        let uri = format!("file://{}", log.display());
        let script = format!("exec 2> /dev/null\n{script}\necho '{END}'");
        self.ok(&["task", "exec", "--exec-id", &process, "--log-uri", &uri, &self.id(id), "/bin/sh", "-ec", &script]);
        let mut output = String::new();
        until("the output of a command", || {
            output = std::fs::read_to_string(&log).unwrap_or_default();
            output.ends_with(&format!("{END}\n"))
        });
        output.truncate(output.len() - END.len() - 1);
        output
    }

    pub(crate) fn end(&self, id: &str) {
        self.ok(&["task", "rm", "--force", &self.id(id)]);
        self.ok(&["container", "rm", &self.id(id)]);
    }

    /// Removes an image and waits until containerd has collected its garbage.
    pub(crate) fn remove_image(&self, reference: &str) {
        self.ok(&["image", "rm", "--sync", reference]);
    }

    /// Makes a snapshot by `Prepare` or `View` that no collection removes. `ctr snapshot view` makes one that the next
    /// collection may remove.
    pub(crate) fn make_snapshot(&self, method: &str, key: &str, parent: &str) {
        let call = Prepare {
            snapshotter: "lamina".into(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::from([("containerd.io/gc.root".to_owned(), "test".to_owned())]),
        };
        let made: Result<Nothing, String> = Grpc::at(&self.path("c.sock")).call(&format!("{SERVICE}/{method}"), &call);
        made.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
    }

    /// Makes containerd collect its garbage now.
    pub(crate) fn collect(&self) {
        self.collect_of("default");
    }

    /// Does the same from a namespace.
    pub(crate) fn collect_of(&self, namespace: &str) {
        // A lease that is deleted synchronously starts a collection.
        self.ok(&["--namespace", namespace, "leases", "create", "--id", "collect"]);
        self.ok(&["--namespace", namespace, "leases", "delete", "--sync", "collect"]);
    }

    /// The views that are mounted.
    pub(crate) fn views(&self) -> Vec<PathBuf> {
        let views = self.session.directory().join("run/snapshotter/views");
        self.session.traces().mounts().into_iter().filter(|point| point.starts_with(&views)).collect()
    }

    /// The process of the server of the only view.
    pub(crate) fn server(&self) -> Pid {
        let servers = self.session.traces().processes();
        let mut servers = servers.iter().filter(|process| process.command.contains(" __view "));
        let only = servers.next().expect("a server of a view").pid;
        assert!(servers.next().is_none(), "one server");
        only
    }

    /// The DiffIDs of the layers in the store.
    pub(crate) fn layers(&self) -> Vec<String> {
        let layers = std::fs::read_dir(self.session.store().join("layers/sha256")).into_iter().flatten().flatten();
        let layers = layers.filter(|layer| ["blob", "thin"].iter().any(|name| layer.path().join(name).exists()));
        let mut layers: Vec<String> =
            layers.map(|layer| format!("sha256:{}", layer.file_name().to_string_lossy())).collect();
        layers.sort();
        layers
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
        if self.containerd.is_some() {
            for container in self.ctr(&["task", "ls", "--quiet"]).stdout.lines() {
                self.ctr(&["task", "rm", "--force", container]);
            }
        }
        for child in [self.containerd.as_mut(), self.snapshotter.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kill(mut child: Child) {
    child.kill().expect("it still runs");
    child.wait().expect("its end");
}

/// The programs of a container, with what they need from this host, and a file of [`LARGE`] bytes that ends with `end\n`.
pub(crate) fn base() -> Layer {
    // Made once: the times of the files differ.
    static BASE: OnceLock<Layer> = OnceLock::new();
    BASE.get_or_init(|| programs("sh cat sleep tail ls rm wc", LARGE)).clone()
}

/// Programs with what they need from this host, and a file of `large` bytes that ends with `end\n`.
pub(crate) fn programs(names: &str, large: usize) -> Layer {
    Layer::of_script(&format!(
        "mkdir -p usr/bin usr/lib usr/lib64 etc tmp && ln -s usr/bin usr/lib usr/lib64 . && echo base > etc/layer
         chmod 1777 tmp
         for name in {names}; do
             path=$(command -v $name)
             cp --dereference $path usr/bin/$name
             ldd $path | grep -o '/[^ ]*' | while read -r needed; do cp --dereference --parents $needed .; done
         done
         yes large | head -c {} > large; echo end >> large",
        large - 4
    ))
}

pub(crate) fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}
