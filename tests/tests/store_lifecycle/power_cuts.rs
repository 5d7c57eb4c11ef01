//! Power cuts at every moment: the next command uses each disk that one may leave, without repair.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use end_to_end::conformance::subject::dump;
use end_to_end::layout::{Layer, noise};
use end_to_end::power_cut::{Cut, Disk, Recorded};
use end_to_end::store_checks::leftovers;
use end_to_end::{Layout, Registry, Session};
use layer_store::{ImportOptions, ImportSource, Observer, Silent, Store};

use super::{small_images, top};

const FIRST: &str = "lamina.test/first:1";
const SECOND: &str = "lamina.test/second:1";

/// Disks tried for each command; `LAMINA_POWER_CUTS=all` tries all of them.
const LOOKED_AT: usize = 40;

/// What the names mean, as text: the tree of each.
type Names = BTreeMap<String, String>;

/// A store whose commands are recorded, in a directory that does not exist at first.
struct Cuts {
    session: Session,
    /// The recorded disk: the store is in a directory below it.
    top: PathBuf,
    disk: Disk,
    images: [Layout; 2],
    /// What each image shows, first and second.
    trees: [String; 2],
    /// What the names mean now.
    names: Names,
    /// Everything that a name has ever meant: if a process dies before its change is on the disk, the change may be
    /// undone.
    meanings: BTreeSet<(String, String)>,
    seen: HashSet<u64>,
    looked_at: usize,
}

const STORE: &str = "new/store";

impl Cuts {
    fn new() -> Self {
        Self::of(small_images())
    }

    fn of(images: [Layout; 2]) -> Self {
        let session = Session::user();
        let top = session.work("disk");
        let trees = [0, 1].map(|number| tree_of(&images[number]));
        let disk = Disk::of(&top);
        let (names, meanings) = (Names::new(), BTreeSet::new());
        Self { session, top, disk, images, trees, names, meanings, seen: HashSet::new(), looked_at: 0 }
    }

    fn layout(&self, number: usize) -> &str {
        self.images[number].path().to_str().expect("a path in UTF-8")
    }

    /// Runs a command after which the names are `after`, and tries the disks that a cut may leave while it runs.
    fn run(&mut self, arguments: &[&str], fault: Option<layer_store::FaultPoint>, after: &[(&str, usize)]) {
        let store = self.top.join(STORE);
        let after: Names = after.iter().map(|(name, image)| ((*name).to_owned(), self.trees[*image].clone())).collect();
        self.meanings.extend(after.clone());
        let before = std::mem::replace(&mut self.names, after.clone());
        let mut command = match fault {
            Some(point) => self.session.faulty(point, false, arguments),
            None => self.session.lamina(arguments),
        };
        command.env("LAMINA_STORE", &store);
        let log = self.session.directory().join("tmp/calls");
        let recorded = Recorded::of(&command, &log);
        assert_eq!(recorded.finished.status.success(), fault.is_none(), "{}", recorded.finished);
        let mut cuts = Vec::new();
        for (number, call) in recorded.calls.iter().enumerate() {
            if self.disk.is_sync(call) {
                let moment = format!("{arguments:?}, before call {number} ({})", call.name);
                cuts.extend(self.disk.cuts(&moment, &mut self.seen).into_iter().map(|cut| (cut, false)));
            }
            self.disk.follow(call);
        }
        self.disk.forget_handles();
        // A command that has reported success has its effect on the disk.
        let moment = format!("{arguments:?}, at its end");
        let done = fault.is_none();
        cuts.extend(self.disk.cuts(&moment, &mut self.seen).into_iter().map(|cut| (cut, done)));
        assert!(!cuts.is_empty(), "{arguments:?} leaves nothing to chance");
        let all = std::env::var("LAMINA_POWER_CUTS").is_ok_and(|which| which == "all");
        let step = if all { 1 } else { cuts.len().div_ceil(LOOKED_AT) };
        // The last disks are those with the most changes: every step ends with one of them.
        for (cut, done) in cuts.iter().rev().step_by(step) {
            self.look(cut, &before, &after, *done);
        }
        println!("{arguments:?}: {} disks, 1 of {step} looked at", cuts.len());
    }

    /// Runs a command without trying any disk.
    fn follow(&mut self, arguments: &[&str], fault: Option<layer_store::FaultPoint>, also_read: Option<&Path>) {
        let mut command = match fault {
            Some(point) => self.session.faulty(point, false, arguments),
            None => self.session.lamina(arguments),
        };
        command.env("LAMINA_STORE", self.top.join(STORE)).env("LAMINA_ALSO_READ", also_read.unwrap_or(Path::new("")));
        let recorded = Recorded::of(&command, &self.session.directory().join("tmp/calls"));
        assert_eq!(recorded.finished.status.success(), fault.is_none(), "{}", recorded.finished);
        recorded.calls.iter().for_each(|call| self.disk.follow(call));
        self.disk.forget_handles();
    }

    /// Tries every disk that a cut may leave now: the names are these, and their trees are whole.
    fn assert_only(&self, names: &[(&str, usize)]) {
        let names: Names = names.iter().map(|(name, image)| ((*name).to_owned(), self.trees[*image].clone())).collect();
        for cut in self.disk.cuts("at its end", &mut HashSet::new()) {
            let scratch = tempfile::tempdir_in("/dev/shm").expect("memory for a disk");
            cut.write(scratch.path());
            assert_eq!(names_of(&scratch.path().join(STORE)), names, "{}", cut.label);
        }
    }

    fn look(&mut self, cut: &Cut, before: &Names, after: &Names, done: bool) {
        let scratch = tempfile::Builder::new().prefix("lamina-cut-").tempdir_in("/dev/shm").expect("memory for a disk");
        cut.write(scratch.path());
        let root = scratch.path().join(STORE);
        self.looked_at += 1;
        let found = names_of(&root);
        let label = &cut.label;
        for (name, tree) in &found {
            assert!(self.meanings.contains(&(name.clone(), tree.clone())), "{label}: {name} shows\n{tree}");
        }
        for (name, tree) in before {
            assert!(after.get(name) != Some(tree) || found.contains_key(name), "{label}: {name} is gone");
        }
        if done {
            assert_eq!(&found, after, "{label}");
        }
        self.go_on(&root, label);
    }

    /// Runs the next commands: a collection, and an import of both images.
    fn go_on(&self, root: &Path, label: &str) {
        let store = Store::open(root).unwrap_or_else(|error| panic!("{label}: {error}"));
        store.collect(false).unwrap_or_else(|error| panic!("{label}: {error}"));
        for (number, name) in [(0, FIRST), (1, SECOND)] {
            let options = ImportOptions { tag: Some(name.parse().expect("a name")), ..ImportOptions::default() };
            let source = ImportSource::Path(self.images[number].path().to_owned());
            store
                .images()
                .import(&source, &options, &(Arc::new(Silent) as Arc<dyn Observer>))
                .unwrap_or_else(|error| panic!("{label}: {name}: {error}"));
        }
        drop(store);
        let names = names_of(root);
        assert_eq!([&names[FIRST], &names[SECOND]], [&self.trees[0], &self.trees[1]], "{label}");
        Store::open(root).and_then(|store| store.collect(false)).unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!(leftovers(root), Vec::<PathBuf>::new(), "{label}");
    }
}

/// The tree of every name in a store. Checks that every layer is whole.
fn names_of(root: &Path) -> Names {
    let store = Store::open(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let images = store.images().list().unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    images.into_iter().map(|image| (image.reference.clone(), shown(&store, &image.reference))).collect()
}

fn shown(store: &Store, reference: &str) -> String {
    let look = || -> anyhow::Result<String> {
        let image = store.images().get(reference)?;
        for layer in &image.layers {
            assert_eq!(store.layers().verify(layer, &Silent)?, None, "{reference}");
        }
        let base = store.bases().prepare(&image, &[], &Silent)?;
        Ok(dump(&store.bases().open(&base)?)?.to_string())
    };
    look().unwrap_or_else(|error| panic!("{reference}: {error:#}"))
}

fn tree_of(layout: &Layout) -> String {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let store = Store::open(scratch.path()).expect("a store");
    let options = ImportOptions { tag: Some(FIRST.parse().expect("a name")), ..ImportOptions::default() };
    store
        .images()
        .import(&ImportSource::Path(layout.path().to_owned()), &options, &(Arc::new(Silent) as Arc<dyn Observer>))
        .expect("an import");
    shown(&store, FIRST)
}

#[test]
fn power_cut_at_any_moment_leaves_no_name_without_its_content() {
    use layer_store::FaultPoint as P;
    let mut cuts = Cuts::new();
    let (first, second) = (cuts.layout(0).to_owned(), cuts.layout(1).to_owned());
    let agent = top(&cuts.session, "a variant");
    // The commands run one after the other, and nothing else syncs anything in between.
    cuts.run(&["import", &first, "--tag", FIRST], None, &[(FIRST, 0)]);
    cuts.run(&["prepare", FIRST], None, &[(FIRST, 0)]);
    cuts.run(&["prepare", FIRST, "--layer", agent.to_str().unwrap()], None, &[(FIRST, 0)]);
    cuts.run(&["import", &second, "--tag", SECOND], None, &[(FIRST, 0), (SECOND, 1)]);
    cuts.run(&["import", &second, "--tag", FIRST], None, &[(FIRST, 1), (SECOND, 1)]);
    cuts.run(&["gc"], None, &[(FIRST, 1), (SECOND, 1)]);
    // A process removes a name and dies before that is on the disk; what the name led to is collected.
    cuts.run(&["rmi", FIRST], Some(P::ImageRemoved), &[(SECOND, 1)]);
    cuts.run(&["rmi", SECOND], Some(P::ImageRemoved), &[]);
    cuts.run(&["gc"], None, &[]);
    // A process sets a name and dies before that is on the disk; then another process sets it.
    cuts.run(&["import", &first, "--tag", FIRST], Some(P::ImagePublished), &[]);
    cuts.run(&["import", &first, "--tag", FIRST], None, &[(FIRST, 0)]);
    println!("{} disks looked at", cuts.looked_at);
}

/// Two images with one file in common, which the second borrows from the first.
fn small_twins() -> [Layout; 2] {
    let common = noise(60, 80_000);
    let donor = Layer::of_files(&[("common", &common), ("own", &noise(61, 3_000))]);
    let borrower = Layer::of_files(&[("etc/own", &noise(62, 5_000)), ("moved/common", &common)]);
    [donor, borrower].map(|layer| Layout::of(&[layer]))
}

#[test]
fn power_cut_while_content_is_shared_leaves_every_layer_whole() {
    use layer_store::FaultPoint as P;
    let mut cuts = Cuts::of(small_twins());
    let (first, second) = (cuts.layout(0).to_owned(), cuts.layout(1).to_owned());
    cuts.run(&["import", &first, "--tag", FIRST], None, &[(FIRST, 0)]);
    cuts.run(&["import", &second, "--tag", SECOND], None, &[(FIRST, 0), (SECOND, 1)]);
    let layers = std::fs::read_dir(cuts.top.join(STORE).join("layers/sha256")).expect("the layers");
    assert_eq!(layers.filter(|layer| layer.as_ref().expect("a layer").path().join("thin").exists()).count(), 1);
    // The lender is collected, except for what it has lent.
    cuts.run(&["rmi", FIRST], Some(P::ImageRemoved), &[(SECOND, 1)]);
    cuts.run(&["gc"], None, &[(SECOND, 1)]);
    // It returns to its remnant: a process stores it and dies before that is on the disk, and another names it.
    cuts.run(&["import", &first, "--tag", FIRST], Some(P::LayerPublished), &[(SECOND, 1)]);
    cuts.run(&["import", &first, "--tag", FIRST], None, &[(FIRST, 0), (SECOND, 1)]);
    cuts.run(&["rmi", SECOND], Some(P::ImageRemoved), &[(FIRST, 0)]);
    cuts.run(&["gc"], None, &[(FIRST, 0)]);
    println!("{} disks looked at", cuts.looked_at);
}

#[test]
fn power_cut_after_a_repair_to_a_store_that_had_not_the_layer_leaves_it() {
    let (registry, system) = (Registry::plain(), Session::user());
    let layer = Layer::of_files(&[("etc/motd", b"welcome\n")]);
    let mut cuts = Cuts::of([1, 2].map(|_| Layout::of(std::slice::from_ref(&layer))));
    let reference = registry.push_layout(cuts.images[0].path(), "test/first", "1");
    let canonical = reference.parse::<layer_store::Reference>().expect("a reference").to_string();
    system.ok(["pull", "--quiet", &reference]);
    let hex = layer.diff_id().trim_start_matches("sha256:").to_owned();
    let blob = system.store().join("layers/sha256").join(hex).join("blob");
    cuts.follow(&["pull", "--quiet", &reference], None, Some(&system.store()));
    std::fs::write(&blob, vec![0; 1024]).expect("a damaged blob");
    cuts.follow(&["verify", "--repair", &reference], None, Some(&system.store()));
    cuts.assert_only(&[(&canonical, 0)]);
}

#[test]
fn power_cut_after_an_import_under_a_name_that_was_there_leaves_the_layers_that_were_not() {
    let mut cuts = Cuts::new();
    let first = cuts.layout(0).to_owned();
    let import = ["import", first.as_str(), "--tag", FIRST, "--parallel=1"];
    cuts.follow(&import, None, None);
    let layers = cuts.top.join(STORE).join("layers/sha256");
    for layer in std::fs::read_dir(&layers).expect("the layers") {
        std::fs::remove_dir_all(layer.expect("a layer").path()).expect("a layer that goes");
    }
    cuts.disk = Disk::of(&cuts.top);
    // A process stores it again and dies before that is on the disk, and so does another.
    for _ in 0..2 {
        cuts.follow(&import, Some(layer_store::FaultPoint::LayerPublished), None);
    }
    cuts.follow(&import, None, None);
    cuts.assert_only(&[(FIRST, 0)]);
}

#[test]
fn power_cut_during_a_repair_leaves_the_layer() {
    let registry = Registry::plain();
    let mut cuts = Cuts::new();
    let reference = registry.push_layout(cuts.images[0].path(), "test/first", "1");
    let canonical: layer_store::Reference = reference.parse().expect("a reference");
    let canonical = canonical.to_string();
    let store = cuts.top.join(STORE);
    cuts.run(&["pull", "--quiet", &reference], None, &[(&canonical, 0)]);
    let layers = std::fs::read_dir(store.join("layers/sha256")).expect("the layers");
    let damaged = layers.map(|layer| layer.expect("a layer").path().join("blob")).max().expect("a blob");
    let whole = std::fs::read(&damaged).expect("a blob");
    let mut bytes = whole.clone();
    bytes[600] ^= 1;
    std::fs::write(&damaged, bytes).expect("a damaged blob");
    // Everything is synced, including the damage.
    cuts.disk = Disk::of(&cuts.top);
    let recorded = {
        let mut command = cuts.session.lamina(["verify", "--repair", &reference]);
        command.env("LAMINA_STORE", &store);
        Recorded::of(&command, &cuts.session.directory().join("tmp/calls"))
    };
    assert!(recorded.finished.status.success(), "{}", recorded.finished);
    for call in &recorded.calls {
        if cuts.disk.is_sync(call) {
            for cut in cuts.disk.cuts("repair", &mut cuts.seen) {
                let scratch = tempfile::tempdir_in("/dev/shm").expect("memory for a disk");
                cut.write(scratch.path());
                let path = scratch.path().join(damaged.strip_prefix(&cuts.top).expect("a path of the disk"));
                let found = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", cut.label));
                assert_eq!(found.len(), whole.len(), "{}", cut.label);
            }
        }
        cuts.disk.follow(call);
    }
    cuts.disk.forget_handles();
    cuts.assert_only(&[(&canonical, 0)]);
}
