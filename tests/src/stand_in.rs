//! Programs that play a hypervisor and the init of its guest, for engines that need a processor with KVM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layout::Layer;
use crate::{Actor, Finished, Layout, Session};

/// The image of its machines.
const REFERENCE: &str = "lamina.test/image:1";

/// What plays init, in Python: connects to the launcher at the socket of `vsock`, is told what to mount (`setup`), and
/// returns when its command has been started. `send` and `receive` then speak the protocol.
const INIT: &str = r"
control = socket.socket(socket.AF_UNIX); control.connect(vsock + '_1024')
def send(stream, kind, payload=b''):
    control.sendall(struct.pack('<IIB3x', len(payload), stream, kind) + payload)
def take(count):
    data = b''
    while len(data) < count:
        more = control.recv(count - len(data))
        if not more: sys.exit(0)
        data += more
    return data
def receive():
    length, stream, kind = struct.unpack('<IIB3x', take(12))
    return stream, kind, take(length)
send(0, 1, json.dumps({'version': PROTOCOL, 'kernel': '6.1'}).encode())
kind = 0
while kind != 2: _, kind, setup = receive()
send(0, 3)
while receive()[:2] != (1, 4): pass
send(1, 5)
";

/// Executable files that are no hypervisor, and why each is refused.
pub const NO_HYPERVISORS: [(&str, &str); 3] = [
    ("no program at all", "it cannot be started: Exec format error"),
    ("#!/bin/sh\nexit 1\n", "it prints no version"),
    ("#!/bin/sh\ncat\n", "it prints no version"),
];

/// A session with an image, and a stand-in as the only program of an engine.
#[derive(Debug)]
pub struct StandIn {
    actor: Actor,
    /// The session.
    pub session: Session,
    /// The directory with the program.
    pub programs: PathBuf,
    engine: &'static str,
    script: &'static str,
}

impl StandIn {
    /// Makes a session of `actor`, for the engine with this name and program. The Python `script` plays it: `INIT` on a
    /// line of its own is replaced by what plays init.
    ///
    /// # Panics
    /// When something cannot be made.
    #[must_use]
    pub fn of(actor: Actor, engine: &'static str, script: &'static str) -> Self {
        let session = Session::new(actor);
        let layer = Layer::of_files(&[("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("bin/sh", b"")]);
        session.import(Layout::of(std::slice::from_ref(&layer)).path(), REFERENCE);
        let programs = session.work("programs");
        fs::set_permissions(&programs, PermissionsExt::from_mode(0o755)).expect("a directory for all");
        Self { actor, session, programs, engine, script }
    }

    /// Puts the stand-in of a version there. It prints `version`, and its guest does what `mode` says.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn puts(&self, version: &str, mode: &str) {
        let text = self.script.replace("\nINIT\n", INIT).replace("VERSION", version).replace("MODE", mode);
        self.puts_program(&text.replace("PROTOCOL", &guest_protocol::VERSION.to_string()));
    }

    /// Puts an executable file with this content there.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn puts_program(&self, text: &str) {
        let program = self.programs.join(self.engine);
        // A new file, because the probe cache tells programs apart by their inodes and times.
        let _ = fs::remove_file(&program);
        fs::write(&program, text).expect("a program");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a program");
    }

    /// `lamina run --engine ENGINE OPTIONS IMAGE -- /bin/sh`.
    ///
    /// # Panics
    /// When the variable `PATH` is not set.
    #[must_use]
    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = self.session.lamina(["run", "--engine", self.engine]);
        command.env("PATH", format!("{}:{}", self.programs.display(), std::env::var("PATH").expect("a PATH")));
        if self.actor == Actor::Root {
            command.args(["--as", "lamina-test"]);
        }
        command.args(options).args([REFERENCE, "--", "/bin/sh"]);
        command
    }

    /// Runs a machine to its end.
    #[must_use]
    pub fn run(&self, options: &[&str]) -> Finished {
        Finished::of(&mut self.command(options))
    }

    /// Runs a machine in each of these modes, and compares why it failed. Nothing may be left of it.
    ///
    /// # Panics
    /// When a run succeeds, gives another reason, or leaves something behind.
    pub fn runs_that_fail(&self, version: &str, reasons: &[(&str, &str)]) {
        for (mode, expected) in reasons {
            self.puts(version, mode);
            let finished = self.run(&["--network", "none"]);
            assert_eq!(finished.status.code(), Some(125), "{mode}: {finished}");
            assert!(finished.stderr.contains(expected), "{mode}: {finished}");
            self.session.traces().assert_nothing_left();
        }
    }

    /// Runs two machines by a program that only prints `version`. It may be asked for it once.
    ///
    /// # Panics
    /// When it is asked again.
    pub fn is_asked_for_its_version_once(&self, version: &str) {
        let asked = self.session.work("asked").join("times");
        self.puts_program(&format!(
            "#!/bin/sh\ntest \"$1\" = --version || exit 1\necho asked >> '{}'\necho '{version}'\n",
            asked.display()
        ));
        for _ in 0..2 {
            assert_eq!(self.run(&["--network", "none"]).status.code(), Some(125));
        }
        assert_eq!(fs::read_to_string(&asked).expect("what it has noted"), "asked\n");
        self.session.traces().assert_nothing_left();
    }

    /// `lamina run --explain OPTIONS IMAGE -- /bin/sh` with no other engine's program.
    #[must_use]
    pub fn run_by_choice(&self, options: &[&str]) -> Finished {
        let mut command = self.session.lamina(["run", "--as", "lamina-test", "--explain"]);
        Finished::of(command.env("PATH", &self.programs).args(options).args([REFERENCE, "--", "/bin/sh"]))
    }

    /// Runs a machine on a host where `/dev/kvm` cannot be opened.
    ///
    /// # Panics
    /// When that cannot be arranged.
    #[must_use]
    pub fn run_without_kvm(&self, options: &[&str]) -> Finished {
        // What cannot be opened hides the device, if there is one.
        let hides = self.session.work("hides").join("socket");
        let listener = UnixListener::bind(&hides).expect("a socket");
        let inner = self.command(options);
        let mut command = self.session.command(Path::new("/usr/bin/unshare"));
        command.args(["--mount", "/bin/sh", "-c"]);
        command.arg("test ! -e /dev/kvm || mount --bind \"$1\" /dev/kvm; shift; exec \"$@\"").arg("sh").arg(&hides);
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let finished = Finished::of(&mut command);
        drop(listener);
        fs::remove_file(&hides).expect("the socket");
        finished
    }
}
