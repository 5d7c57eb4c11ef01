//! Power cuts at every moment of the snapshotter's calls: the next snapshotter starts on each disk that one may leave, and
//! what was answered is there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use end_to_end::layout::{Layer, noise};
use end_to_end::power_cut::{Cut, Disk, Recorded};
use end_to_end::programs::built;
use end_to_end::{Actor, Layout, Session, until};
use layer_store::{Silent, Store};
use rustix::process::{Signal, kill_process};

use super::grpc::Grpc;
use super::snapshots::{ACTIVE, Asked, COMMITTED, Commit, Nothing, Prepare, SERVICE, Snapshots, list};

/// Disks tried for each call; `LAMINA_POWER_CUTS=all` tries all of them.
const LOOKED_AT: usize = 12;

/// A snapshotter whose calls are recorded, one process for each call.
struct Cuts {
    session: Session,
    /// The recorded disk: the directory with the state and the store.
    top: PathBuf,
    disk: Disk,
    /// What is there now.
    snapshots: Snapshots,
    seen: HashSet<u64>,
}

impl Cuts {
    fn new() -> Self {
        let session = Session::new(Actor::Root);
        let top = session.work("disk");
        let disk = Disk::of(&top);
        Self { session, top, disk, snapshots: Snapshots::new(), seen: HashSet::new() }
    }

    fn serve(&self) -> Command {
        let mut command = self.session.command(&built("lamina-containerd"));
        command.arg("--store").arg(self.top.join("store")).arg("serve").arg("--address").arg(self.socket());
        command.arg("--root").arg(self.top.join("state")).arg("--run").arg(self.session.directory().join("run/views"));
        command
    }

    fn socket(&self) -> PathBuf {
        self.session.directory().join("s.sock")
    }

    /// Waits until a snapshotter answers, calls it, and ends it.
    fn call<T>(&self, call: impl FnOnce(&Grpc) -> T) -> T {
        let grpc = Grpc::at(&self.socket());
        until("the snapshotter to answer", || list(&grpc).is_ok());
        let answer = call(&grpc);
        let program = built("lamina-containerd").display().to_string();
        let processes = self.session.traces().processes();
        let pid = processes.iter().find(|process| process.command.starts_with(&program)).expect("a snapshotter").pid;
        kill_process(pid, Signal::TERM).expect("the snapshotter still runs");
        answer
    }

    /// Makes a call after which these snapshots are there, and tries the disks that a cut may leave while it is made.
    fn step(&mut self, what: &str, after: &[(&str, i32)], call: impl FnOnce(&Grpc)) {
        let after: Snapshots = after.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        let before = std::mem::replace(&mut self.snapshots, after.clone());
        let log = self.session.directory().join("tmp/calls");
        let recorded = std::thread::scope(|scope| {
            let recording = scope.spawn(|| Recorded::of(&self.serve(), &log));
            self.call(call);
            recording.join().expect("a record")
        });
        assert!(recorded.finished.status.success(), "{}", recorded.finished);
        let mut cuts = Vec::new();
        for (number, call) in recorded.calls.iter().enumerate() {
            if self.disk.is_sync(call) {
                let moment = format!("{what}, before call {number} ({})", call.name);
                cuts.extend(self.disk.cuts(&moment, &mut self.seen).into_iter().map(|cut| (cut, false)));
            }
            self.disk.follow(call);
        }
        self.disk.forget_handles();
        let answered = self.disk.cuts(&format!("{what}, answered"), &mut HashSet::new());
        assert!(!cuts.is_empty(), "{what} leaves nothing to chance");
        cuts.extend(answered.into_iter().map(|cut| (cut, true)));
        let all = std::env::var("LAMINA_POWER_CUTS").is_ok_and(|which| which == "all");
        let step = if all { 1 } else { cuts.len().div_ceil(LOOKED_AT) };
        for (cut, is_answered) in cuts.iter().rev().step_by(step) {
            let found = self.after(cut);
            let label = &cut.label;
            if *is_answered {
                assert_eq!(found, after, "{label}");
            }
            for (name, kind) in &found {
                assert!([&before, &after].iter().any(|known| known.get(name) == Some(kind)), "{label}: {found:?}");
            }
            let stays = before.iter().filter(|(name, kind)| after.get(*name) == Some(kind));
            stays.for_each(|(name, _)| assert!(found.contains_key(name), "{label}: {name} is gone"));
        }
        println!("{what}: {} disks, 1 of {step} looked at", cuts.len());
    }

    /// Returns the snapshots that the next snapshotter finds after a cut. All layers that they need are whole.
    fn after(&self, cut: &Cut) -> Snapshots {
        // The pins name paths, so the disk has the same ones.
        let aside = self.top.with_extension("aside");
        std::fs::rename(&self.top, &aside).expect("the disk is put aside");
        std::fs::create_dir(&self.top).expect("another disk");
        cut.write(&self.top);
        let log = std::fs::File::create(self.session.directory().join("tmp/log")).expect("a log");
        let mut serving = self.serve().stdout(Stdio::null()).stderr(log).spawn().expect("a snapshotter");
        let found = self.call(|grpc| list(grpc).expect("a list"));
        assert!(serving.wait().expect("its end").success(), "{}", cut.label);
        let store = Store::open(&self.top.join("store")).expect("the store");
        let pins = store.pins().list().expect("the pins");
        assert_eq!(pins.len(), found.values().filter(|kind| **kind == COMMITTED).count(), "{}: {pins:?}", cut.label);
        for layer in pins.iter().flat_map(|pin| &pin.layers) {
            let damage = store.layers().verify(layer, &Silent).unwrap_or_else(|error| panic!("{}: {error}", cut.label));
            assert_eq!(damage, None, "{}", cut.label);
        }
        drop(store);
        std::fs::remove_dir_all(&self.top).expect("the other disk");
        std::fs::rename(&aside, &self.top).expect("the disk comes back");
        found
    }
}

fn prepare(grpc: &Grpc, key: &str, target: Option<&str>) -> Result<Nothing, String> {
    let labels = target.map(|target| ("containerd.io/snapshot.ref".to_owned(), target.to_owned()));
    let call = Prepare { key: key.to_owned(), labels: labels.into_iter().collect(), ..Prepare::default() };
    grpc.call(&format!("{SERVICE}/Prepare"), &call)
}

/// Imports an image of one layer. Returns the DiffID of the layer, which is its chain id too.
fn import(session: &Session, store: &Path, layer: &Layer) -> String {
    let layout = Layout::of(std::slice::from_ref(layer));
    let mut command = session.lamina(["import", "--tag", "lamina.test/ready:1"]);
    end_to_end::Finished::of(command.arg(layout.path()).env("LAMINA_STORE", store)).succeeded();
    layer.diff_id()
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_snapshot_or_none_and_all_that_was_answered() {
    let mut cuts = Cuts::new();
    let disk = cuts.top.clone();
    cuts.step("Prepare", &[("key", ACTIVE)], |grpc| {
        prepare(grpc, "key", None).expect("a snapshot");
    });
    let upper = std::fs::read_dir(disk.join("state/snapshots")).expect("the snapshots").next().expect("a snapshot");
    std::fs::write(upper.expect("a snapshot").path().join("upper/file"), noise(80, 20_000)).expect("written");
    let ready = import(&cuts.session, &disk.join("store"), &Layer::of_files(&[("ready", b"ready")]));
    // What others have written is on the disk.
    cuts.disk = Disk::of(&cuts.top);
    cuts.step("Commit", &[("name", COMMITTED)], |grpc| {
        let commit = Commit { name: "name".into(), key: "key".into(), ..Commit::default() };
        let _: Nothing = grpc.call(&format!("{SERVICE}/Commit"), &commit).expect("a commit");
    });
    // The answer is that it exists already.
    let name = ready.clone();
    cuts.step("Prepare of a layer that is ready", &[("name", COMMITTED), (&name, COMMITTED)], |grpc| {
        prepare(grpc, "key", Some(&ready)).expect_err("a layer that is ready");
        until("the layer to be committed", || list(grpc).is_ok_and(|found| found.len() == 2));
    });
    cuts.step("Remove", &[(&name, COMMITTED)], |grpc| {
        let _: Nothing = grpc
            .call(&format!("{SERVICE}/Remove"), &Asked { key: "name".into(), ..Asked::default() })
            .expect("a removal");
    });
}
