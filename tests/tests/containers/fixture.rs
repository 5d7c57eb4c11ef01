//! A session with the real image in its store, and containers on it.

use std::process::Command;

use end_to_end::{Finished, Image, Session, until};

pub(crate) const REFERENCE: &str = "lamina.test/image:1";

pub(crate) struct Containers {
    pub(crate) session: Session,
}

impl Containers {
    pub(crate) fn new() -> Self {
        Self::of(Image::Debian)
    }

    pub(crate) fn of(image: Image) -> Self {
        let session = Session::user();
        session.import(&image.layout(), REFERENCE);
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

    /// Waits until a container has failed; the reason.
    pub(crate) fn failed(&self, name: &str) -> String {
        until("the machine to end", || self.session.seen(name)["state"] != "running");
        let seen = self.session.seen(name);
        assert_eq!(seen["state"], "failed", "{seen}");
        seen["reason"].as_str().expect("the reason of a failure").to_owned()
    }
}
