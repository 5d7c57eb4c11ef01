//! A session with an image in its store, and machines on it.

use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::{Finished, Image, Layout, Session};
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
}
