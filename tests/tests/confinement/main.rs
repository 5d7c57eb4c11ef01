//! What a hypervisor that was taken over can reach: only its own machine's files.
//!
//! `hostile-hypervisor` plays it. What it tries to reach exists, and an unconfined run, the positive control, reaches it.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command};

use end_to_end::layout::Layer;
use end_to_end::{Actor, Finished, Layout, Session, programs};
use serde_json::{Map, Value};

const REFERENCE: &str = "lamina.test/image:1";

/// A session with things that a hypervisor must not reach.
struct Targets {
    session: Session,
    actor: Actor,
    port: u16,
    process: Child,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Targets {
    fn of(actor: Actor) -> Self {
        let session = Session::new(actor);
        let layer = Layer::of_files(&[("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("bin/sh", b"")]);
        session.import(Layout::of(std::slice::from_ref(&layer)).path(), REFERENCE);
        let directory = session.directory();
        fs::create_dir(directory.join("hypervisor")).unwrap();
        for engine in ["qemu-system-x86_64", "cloud-hypervisor"] {
            fs::copy(programs::built("hostile-hypervisor"), directory.join("hypervisor").join(engine)).unwrap();
        }
        let blob = session.layer_file(&layer, "blob");
        assert!(blob.is_file(), "{}", blob.display());
        fs::write(session.work("private").join("file"), "secret").unwrap();
        let path = session.directory().join("run/other.sock");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let named = SocketAddr::from_abstract_name(path.as_os_str().as_encoded_bytes()).unwrap();
        let named = UnixListener::bind_addr(&named).unwrap();
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = loopback.local_addr().unwrap().port();
        let process = actor.command(Path::new("sleep")).arg("1000").spawn().unwrap();
        Self { session, actor, port, process, _listeners: (loopback, listener, named) }
    }

    /// Runs a machine by the hostile hypervisor. Returns what it reports.
    fn report(&self, options: &[&str]) -> (Map<String, Value>, String) {
        let finished = self.run("hostile-escape", options).succeeded();
        let report = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
        (report, finished.stderr)
    }

    fn run(&self, name: &str, options: &[&str]) -> Finished {
        Finished::of(self.command(name).args(options).args([REFERENCE, "--", "/bin/sh"]))
    }

    fn command(&self, name: &str) -> Command {
        self.command_of("qemu", name)
    }

    fn command_of(&self, engine: &str, name: &str) -> Command {
        let directory = self.session.directory();
        let accelerator = if engine == "qemu" { "tcg" } else { "kvm" };
        let machine = ["run", "--engine", engine, "--accel", accelerator, "--network", "none", "--name", name];
        let mut command = self.session.lamina(machine);
        let path = std::env::var("PATH").unwrap();
        let blob = fs::read_dir(directory.join("store/layers/sha256")).unwrap().next().unwrap().unwrap().path();
        command
            .env("PATH", format!("{}:{path}", directory.join("hypervisor").display()))
            .env("TARGET_ROOTS_FILE", "/etc/shadow")
            .env("TARGET_FILE", directory.join("work/private/file"))
            .env("TARGET_DIRECTORY", directory.join("work/private"))
            .env("TARGET_BLOB", blob.join("blob"))
            .env("TARGET_SOCKET", directory.join("run/other.sock"))
            .env("TARGET_PORT", self.port.to_string())
            .env("TARGET_PROCESS", self.process.id().to_string());
        if self.actor == Actor::Root {
            command.args(["--as", "lamina-test"]);
        }
        command
    }

    fn end(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // Not a trace of the run.
        fs::remove_file(self.session.directory().join("run/other.sock")).unwrap();
        self.session.traces().assert_nothing_left();
    }
}

fn wrong<'a>(report: &'a Map<String, Value>, expected: &str, besides: &[&str]) -> Vec<(&'a String, &'a Value)> {
    assert!(report.len() > 15, "{report:?}");
    let is_as_expected = |value: &Value| value.as_str().is_some_and(|line| line.starts_with(expected));
    report.iter().filter(|(name, value)| !is_as_expected(value) && !besides.contains(&name.as_str())).collect()
}

#[test]
fn hypervisor_of_a_user_reaches_nothing_but_its_machine() {
    let targets = Targets::of(Actor::User);
    let (report, said) = targets.report(&["--confine=strict"]);
    assert!(wrong(&report, "DENIED", &[]).is_empty(), "{report:#?}");
    assert!(!said.contains("confine"), "{said}");
    let (report, said) = targets.report(&["--confine=off"]);
    // A supervisor keeps its memory to itself, whatever its hypervisor may do.
    let never =
        ["read a file that only root may read", "be root", "keep a core dump", "open the memory of the supervisor"];
    assert!(wrong(&report, "ALLOWED", &never).is_empty(), "{report:#?}");
    assert_eq!(said.matches("--confine=off").count(), 1, "{said}");
    targets.end();
}

#[test]
fn hypervisor_that_root_starts_reaches_nothing_but_its_machine() {
    let targets = Targets::of(Actor::Root);
    let (report, _) = targets.report(&["--confine=strict"]);
    assert!(wrong(&report, "DENIED", &[]).is_empty(), "{report:#?}");
    // Root never is the hypervisor's user, and so its files are out of reach even then.
    let (report, _) = targets.report(&["--confine=off"]);
    for name in ["start a program", "make a user namespace", "reach the loopback of the host"] {
        assert!(report[name].as_str().unwrap().starts_with("ALLOWED"), "{report:#?}");
    }
    assert!(report["be root"].as_str().unwrap().starts_with("DENIED"), "{report:#?}");
    targets.end();
}

/// It makes its sockets itself, in a directory that it may write to. Only root may open the device of a host that keeps it
/// to a group.
#[test]
fn cloud_hypervisor_reaches_nothing_but_its_machine() {
    let targets = Targets::of(Actor::Root);
    let mut command = targets.command_of("cloud-hypervisor", "hostile-escape");
    let finished = Finished::of(command.args(["--confine=strict", REFERENCE, "--", "/bin/sh"])).succeeded();
    let report: Map<String, Value> = serde_json::from_str(&finished.stdout).unwrap();
    assert!(wrong(&report, "DENIED", &[]).is_empty(), "{report:#?}");
    targets.end();
}

#[test]
fn root_without_an_unprivileged_user_is_refused_with_what_to_do() {
    let targets = Targets::of(Actor::Root);
    for name in ["no-such-user", "root", "0"] {
        let mut command = targets.session.lamina(["run", "--as", name, "--network", "none", REFERENCE]);
        let refused = Finished::of(&mut command);
        refused.failed(&format!("--as {name}"));
        assert!(refused.stderr.contains("useradd"), "{refused}");
    }
    targets.end();
}

#[test]
fn host_without_user_namespaces_is_told_and_strict_refuses() {
    let targets = Targets::of(Actor::User);
    // A user namespace in which no other can be made stands for such a host.
    let on_such_a_host = |options: &[&str]| {
        let inner = targets.command("hostile-escape");
        let mut command = targets.session.command(Path::new("/usr/bin/unshare"));
        command.args(["--user", "--map-current-user", "--keep-caps", "/bin/sh", "-c"]);
        command.arg("echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all \"$@\"").arg("sh");
        command.arg(inner.get_program()).args(inner.get_args()).args(options).args([REFERENCE, "--", "/bin/sh"]);
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Finished::of(&mut command)
    };
    let refused = on_such_a_host(&["--confine=strict"]);
    refused.failed("--confine=strict");
    assert!(refused.stderr.contains("sysctl"), "{refused}");
    let less = on_such_a_host(&[]).succeeded();
    let lines: Vec<&str> = less.stderr.lines().filter(|line| line.contains("less confined")).collect();
    assert_eq!(lines.len(), 1, "{less}");
    let report: Map<String, Value> = serde_json::from_str(&less.stdout).unwrap();
    for name in ["start a program", "make a user namespace", "keep a core dump", "gain privileges by a program"] {
        assert!(report[name].as_str().unwrap().starts_with("DENIED"), "{report:#?}");
    }
    targets.end();
}

#[test]
fn slirp_keeps_the_network_of_the_host_says_so_and_is_refused_by_strict() {
    let targets = Targets::of(Actor::User);
    let explained = |options: &[&str]| {
        let run = ["run", "--accel", "tcg", "--network", "slirp"].iter().chain(options).chain(&[REFERENCE]);
        targets.session.run(run)
    };
    let refused = explained(&["--confine=strict"]);
    refused.failed("no network namespace");
    assert!(refused.stderr.contains("slirp"), "{refused}");
    let told = explained(&["--dry-run"]).succeeded();
    assert!(told.stdout.contains("less confined") && told.stdout.contains("install passt"), "{told}");
    targets.end();
}
