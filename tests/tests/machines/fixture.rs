//! A session with an image in its store, and machines on it.

use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::{Engine, Finished, Image, Layout, Session};
use serde_json::Value;

pub(crate) const REFERENCE: &str = "lamina.test/image:1";

pub(crate) struct Machines {
    pub(crate) session: Session,
    pub(crate) engine: Engine,
}

impl Machines {
    /// Machines of `image` that QEMU runs.
    pub(crate) fn of(image: Image) -> Self {
        Self::on(Engine::Qemu, image)
    }

    /// Machines of `image` that `engine` runs.
    pub(crate) fn on(engine: Engine, image: Image) -> Self {
        Self::of_layout(engine, &image.layout())
    }

    /// Machines of the layers of the real image below the given ones, with another config.
    pub(crate) fn with_config(engine: Engine, layers: &[Layer], config: &Value) -> Self {
        let all: Vec<Layer> = [Layer::of_image(Image::Debian, 0)].into_iter().chain(layers.iter().cloned()).collect();
        Self::of_layout(engine, Layout::of_config(&all, config).path())
    }

    /// Machines of an image in a directory of its own.
    pub(crate) fn of_layout(engine: Engine, layout: &std::path::Path) -> Self {
        let session = Session::user();
        session.import(layout, REFERENCE);
        Self { session, engine }
    }

    /// `lamina run OPTIONS REFERENCE -- WORDS`.
    pub(crate) fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let run = ["run"].iter().chain(self.engine.options()).chain(options).chain(&[REFERENCE]);
        let separator: &[&str] = if words.is_empty() { &[] } else { &["--"] };
        self.session.lamina(run.chain(separator).chain(words))
    }

    /// Runs a machine to its end.
    pub(crate) fn run(&self, options: &[&str], words: &[&str]) -> Finished {
        Finished::of(&mut self.command(options, words))
    }

    /// Runs a shell script as root of a guest, which must succeed. Returns its standard output.
    pub(crate) fn ok(&self, options: &[&str], script: &str) -> String {
        let options = [&["-u", "0:0", "-w", "/"], options].concat();
        self.run(&options, &["/bin/sh", "-c", script]).succeeded().stdout
    }

    /// `lamina run --detach --name NAME` of a shell script as root of the guest.
    pub(crate) fn detach(&self, name: &str, options: &[&str], script: &str) -> Command {
        let options = [&["--detach", "--name", name, "-u", "0:0", "-w", "/"], options].concat();
        self.command(&options, &["/bin/sh", "-c", script])
    }

    /// Starts a machine whose command sleeps.
    pub(crate) fn sleeper(&self, name: &str, options: &[&str]) {
        Finished::of(&mut self.detach(name, options, "sleep 1000")).succeeded();
    }
}
