//! A session with the real image in its store, and containers on it.

use std::path::PathBuf;
use std::process::Command;

use end_to_end::{Finished, Image, Session};
use rustix::process::Pid;
use serde_json::Value;

pub(crate) const REFERENCE: &str = "lamina.test/image:1";

pub(crate) struct Containers {
    pub(crate) session: Session,
}

impl Containers {
    pub(crate) fn new() -> Self {
        let session = Session::user();
        session.import(&Image::Debian.layout(), REFERENCE);
        Self { session }
    }

    /// `lamina run --engine container OPTIONS REFERENCE -- WORDS`, without a network unless the options name one.
    pub(crate) fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let network: &[&str] = if options.contains(&"--network") { &[] } else { &["--network", "none"] };
        let run = ["run", "--engine", "container"];
        self.session.lamina(run.iter().chain(network).chain(options).chain(&[REFERENCE, "--"]).chain(words))
    }

    /// Runs a container to its end.
    pub(crate) fn run(&self, options: &[&str], words: &[&str]) -> Finished {
        Finished::of(&mut self.command(options, words))
    }

    /// Runs a shell script as root of a container, which must succeed; its standard output.
    pub(crate) fn ok(&self, options: &[&str], script: &str) -> String {
        let options = [&["-u", "0:0", "-w", "/"], options].concat();
        self.run(&options, &["/bin/sh", "-ec", script]).succeeded().stdout
    }

    /// Starts a container in the background.
    pub(crate) fn detach(&self, name: &str, options: &[&str], script: &str) {
        let options = [&["--detach", "--name", name, "-u", "0:0", "-w", "/"], options].concat();
        self.run(&options, &["/bin/sh", "-c", script]).succeeded();
    }

    /// `lamina exec NAME -- /bin/sh -c SCRIPT`.
    pub(crate) fn exec(&self, name: &str, script: &str) -> Finished {
        self.session.run(["exec", name, "--", "/bin/sh", "-c", script])
    }

    /// The machine as `lamina ps --all --json` has it.
    pub(crate) fn seen(&self, name: &str) -> Value {
        let rows: Vec<Value> = serde_json::from_str(&self.session.ok(["ps", "--all", "--json"])).expect("JSON of ps");
        rows.into_iter().find(|row| row["name"] == name).unwrap_or(Value::Null)
    }

    /// The id of the machine's process with this role.
    pub(crate) fn process(&self, name: &str, role: &str) -> Pid {
        let seen = self.seen(name);
        let processes = seen["processes"].as_array().expect("processes of a machine");
        let found = processes.iter().find(|process| process["role"] == role);
        let pid = found.and_then(|process| process["pid"].as_i64()).unwrap_or_else(|| panic!("no {role} in {seen}"));
        Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id")
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.session.directory().join("state/lamina/machines").join(name)
    }
}
