//! A session with an image in its store, and machines on it.

use std::path::PathBuf;
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::{Finished, Image, Layout, Session};
use rustix::process::Pid;
use serde_json::Value;

pub(crate) const REFERENCE: &str = "lamina.test/image:1";

pub(crate) struct Machines {
    pub(crate) session: Session,
}

impl Machines {
    pub(crate) fn of(image: Image) -> Self {
        let session = Session::user();
        session.import(&image.layout(), REFERENCE);
        Self { session }
    }

    /// The layers of the real image below the given ones, with another config.
    pub(crate) fn with_config(layers: &[Layer], config: &Value) -> Self {
        let session = Session::user();
        let all: Vec<Layer> = [Layer::of_image(Image::Debian, 0)].into_iter().chain(layers.iter().cloned()).collect();
        session.import(Layout::of_config(&all, config).path(), REFERENCE);
        Self { session }
    }

    /// Runs a machine to its end: `lamina run OPTIONS REFERENCE WORDS`.
    pub(crate) fn run(&self, options: &[&str], words: &[&str]) -> Finished {
        let run = ["run", "--accel", "tcg"].iter().chain(options).chain(&[REFERENCE]);
        let separator: &[&str] = if words.is_empty() { &[] } else { &["--"] };
        self.session.run(run.chain(separator).chain(words))
    }

    /// `lamina run --detach --name NAME` of a shell script as root of the guest.
    pub(crate) fn detach(&self, name: &str, options: &[&str], script: &str) -> Command {
        let mut lamina = self.session.lamina(["run", "--accel", "tcg", "--detach", "--name", name]);
        lamina.args(["-u", "0:0", "-w", "/"]).args(options).args([REFERENCE, "--", "/bin/sh", "-c", script]);
        lamina
    }

    /// Starts a machine whose command sleeps.
    pub(crate) fn sleeper(&self, name: &str, options: &[&str]) {
        Finished::of(&mut self.detach(name, options, "sleep 1000")).succeeded();
    }

    /// `lamina exec NAME -- /bin/sh -c SCRIPT`.
    pub(crate) fn exec(&self, name: &str, script: &str) -> Finished {
        self.session.run(["exec", name, "--", "/bin/sh", "-c", script])
    }

    /// The machine as `lamina ps --all --json` prints it.
    pub(crate) fn seen(&self, name: &str) -> Value {
        let text = self.session.ok(["ps", "--all", "--json"]);
        let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON of ps");
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
