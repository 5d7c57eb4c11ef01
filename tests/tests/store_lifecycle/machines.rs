//! Machines of a small image: beside everything else that uses a store, beside a continuous collector, and on a failing
//! disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end::Started;
use end_to_end::layout::{Layer, digest, noise};
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Layout, Registry, Session};

use super::small_disk::Disk;
use super::top;

/// The programs of a guest, with what they need from this host.
fn programs() -> Layer {
    Layer::of_script(
        "mkdir -p usr/bin usr/lib usr/lib64 etc && ln -s usr/bin usr/lib usr/lib64 .
         for name in sh cat sleep sha256sum; do
             path=$(command -v $name)
             cp --dereference $path usr/bin/$name
             ldd $path | grep -o '/[^ ]*' | while read -r needed; do cp --dereference --parents $needed .; done
         done",
    )
}

/// What is in the layer that all images have.
fn shared() -> Vec<u8> {
    noise(1, 200_000)
}

fn own(number: u64) -> Vec<u8> {
    noise(1000 + number, 20_000)
}

/// An image on top of `below`, with the layer that all images have and one that no other has.
fn image(below: &[Layer], number: u64) -> Layout {
    let layers = [Layer::of_files(&[("shared", &shared())]), Layer::of_files(&[("own", &own(number))])];
    Layout::of(&[below, &layers].concat())
}

/// A running machine: it reports that it runs, waits for a file, and then reads what it has not read before.
struct Machine {
    process: Started,
    number: u64,
    directory: PathBuf,
}

impl Machine {
    fn start(session: &Session, number: u64, reference: &str, options: &[&str]) -> Self {
        let directory = session.work(&format!("machine-{number}"));
        let share = format!("{}:/media", directory.display());
        let script = "echo here > /media/here; while [ ! -e /media/go ]; do sleep 0.2; done; \
            cat /shared /own | sha256sum";
        let mut lamina = session.lamina(["run", "--accel", "tcg", "--memory", "128M", "--network", "none"]);
        lamina.args(["-u", "0:0", "-w", "/", "-v", &share]).args(options);
        let process = session.start({
            lamina.args([reference, "--", "/bin/sh", "-c", script]);
            lamina
        });
        Self { process, number, directory }
    }

    fn await_here(&mut self) {
        self.process.await_file(&self.directory.join("here"));
    }

    fn finish(self) {
        std::fs::write(self.directory.join("go"), "").expect("the word to go on");
        let expected = digest(&[shared(), own(self.number)].concat());
        let finished = self.process.finish().succeeded();
        assert_eq!(finished.stdout, format!("{}  -\n", expected.trim_start_matches("sha256:")), "{finished}");
    }
}

const ROUNDS: usize = 2;
const PULLS: u64 = 8;
const PREPARES: u64 = 8;
const MOUNTS: u64 = 20;
const MACHINES: u64 = 5;

#[test]
fn nothing_in_use_is_collected_beside_pulls_prepares_mounts_and_machines() {
    let (registry, session) = (Registry::plain(), Session::user());
    // The last machine has a store of its own with only a base in it, and this one as an additional store.
    let (lent, lender) = (session.work("own-store"), session.store());
    let borrowed = ["--store", lent.to_str().unwrap(), "--also-read", lender.to_str().unwrap()];
    let programs = programs();
    let reference = |number: u64| format!("lamina.test/machine:{number}");
    let ((), collections) = session.beside_a_collector(Duration::from_millis(20), || {
        let machines = 0..MACHINES;
        let mut machines: Vec<Machine> = machines
            .map(|number| {
                session.import(image(std::slice::from_ref(&programs), number).path(), &reference(number));
                let options: &[&str] = if number + 1 == MACHINES { &borrowed } else { &[] };
                Machine::start(&session, number, &reference(number), options)
            })
            .collect();
        let mounts = work_beside(&session, &registry);
        machines.iter_mut().for_each(Machine::await_here);
        // From here on only mounts and machines need what is in the store.
        (0..MACHINES).for_each(|number| drop(session.ok(["rmi", &reference(number)])));
        session.ok(["gc"]);
        let (common, own) = (2, usize::try_from(MACHINES + MOUNTS).expect("a small number"));
        assert_eq!(sound_layers(&session.store()).len(), common + own);
        mounts.iter().for_each(|(number, point)| assert_shown(&session, *number, point));
        machines.into_iter().for_each(Machine::finish);
        for (number, point) in &mounts {
            assert_shown(&session, *number, point);
            session.umount(point);
        }
    });
    assert!(collections > ROUNDS, "{collections} collections");
    assert_eq!(sound_layers(&lent), Vec::<String>::new(), "no layer was copied");
    session.traces().assert_nothing_left();
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()), Vec::<String>::new());
    assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
}

/// Pulls, prepares and mounts at once. Returns the mounts that stay, with the numbers of their images.
fn work_beside(session: &Session, registry: &Registry) -> Vec<(u64, PathBuf)> {
    std::thread::scope(|scope| {
        let pulls: Vec<_> =
            (10..10 + PULLS).map(|number| scope.spawn(move || pull_and_remove(session, registry, number))).collect();
        let prepares: Vec<_> =
            (20..20 + PREPARES).map(|number| scope.spawn(move || prepare_variants(session, number))).collect();
        let mounts: Vec<_> =
            (30..30 + MOUNTS).map(|number| scope.spawn(move || mount_without_a_name(session, number))).collect();
        for worker in pulls.into_iter().chain(prepares) {
            worker.join().expect("a pull or a preparation found nothing missing");
        }
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| worker.join().expect("a mount found nothing missing");
        mounts.into_iter().map(join).collect()
    })
}

fn pull_and_remove(session: &Session, registry: &Registry, number: u64) {
    let layout = image(&[], number);
    let reference = registry.push_layout(layout.path(), &format!("test/pulled-{number}"), "1");
    for _ in 0..ROUNDS {
        session.ok(["pull", "--quiet", &reference]);
        session.ok(["prepare", &reference]);
        session.ok(["rmi", &reference]);
    }
}

fn prepare_variants(session: &Session, number: u64) {
    let (layout, reference) = (image(&[], number), format!("lamina.test/prepared:{number}"));
    session.import(layout.path(), &reference);
    let directory = session.work(&format!("variant-{number}"));
    std::fs::write(directory.join("on-top"), number.to_string()).expect("a file of the test");
    let directory = directory.to_str().expect("a path in UTF-8");
    let first = session.ok(["prepare", &reference, "--layer", directory]);
    for _ in 1..ROUNDS {
        assert_eq!(session.ok(["prepare", &reference, "--layer", directory]), first);
    }
    session.ok(["rmi", &reference]);
}

/// Mounts an image whose name is removed while it is mounted. The last of the mounts stays.
fn mount_without_a_name(session: &Session, number: u64) -> (u64, PathBuf) {
    let (layout, reference) = (image(&[], number), format!("lamina.test/mounted:{number}"));
    let mount = |round: usize| {
        session.import(layout.path(), &reference);
        let point = session.mount(&reference, &format!("mounted-{number}-{round}"));
        session.ok(["rmi", &reference]);
        point
    };
    for round in 1..ROUNDS {
        let point = mount(round);
        // From here on only the mount holds it.
        session.ok(["gc"]);
        assert_shown(session, number, &point);
        session.umount(&point);
    }
    (number, mount(ROUNDS))
}

fn assert_shown(session: &Session, number: u64, root: &Path) {
    for (name, expected) in [("own", own(number)), ("shared", shared())] {
        let path = root.join(name);
        assert!(session.read(&path) == expected, "{}", path.display());
    }
}

/// The machine reads what is still on its store's disk, and writes to memory.
#[test]
fn machine_runs_on_when_the_disk_of_its_store_takes_no_more_writes() {
    const IMAGE: &str = "lamina.test/image:1";
    let session = Session::user();
    let disk = Disk::on_failing_device(&session, 48 << 20);
    session.import(image(&[programs()], 1).path(), IMAGE);
    let mut machine = Machine::start(&session, 1, IMAGE, &[]);
    machine.await_here();
    disk.fail_writes(true);
    let top = top(&session, "a variant of which there is no base");
    let other = ["run", "--accel", "tcg", "--network", "none", "--layer", top.to_str().unwrap(), IMAGE, "--", "true"];
    session.run(other).failed("Input/output error");
    machine.finish();
    disk.fail_writes(false);
    session.ok(["verify"]);
    session.ok(["gc"]);
    assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
    drop(disk);
    session.traces().assert_nothing_left();
}
