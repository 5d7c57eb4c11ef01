//! A system store that every user reads and only root writes, and a user's own store.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::{Layer, digest};
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Actor, Finished, Inventory, Layout, Registry, Session, TreeDump};
use serde_json::Value;

use super::shared_content::Twins;
use super::{Images, top};

const IMAGE: &str = "lamina.test/image:1";
const OTHER: &str = "lamina.test/other:1";

/// Root's store, and a user who reads it beside a store of their own.
struct Shared {
    system: Session,
    user: Session,
}

impl Shared {
    fn new() -> Self {
        Self { system: Session::new(Actor::Root), user: Session::user() }
    }

    /// The user's `lamina` with the system store as an additional store.
    fn lamina<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.user.lamina(arguments);
        command.env("LAMINA_ALSO_READ", self.system.store());
        command
    }

    fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        Finished::of(&mut self.lamina(arguments))
    }

    fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        self.run(arguments).succeeded().stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(arguments.iter().chain(&["--json"]));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn mount(&self, reference: &str, name: &str) -> PathBuf {
        let point = self.user.work(name);
        self.ok([OsStr::new("mount"), OsStr::new(reference), point.as_os_str()]);
        point
    }

    fn tree(&self, reference: &str) -> TreeDump {
        let point = self.mount(reference, "looked-at");
        let tree = self.user.tree(&point);
        self.user.umount(&point);
        tree
    }

    fn open_leases(&self) {
        let leases = self.system.store().join("leases");
        std::fs::set_permissions(&leases, PermissionsExt::from_mode(0o1777)).expect("leases for everybody");
    }
}

fn layers(inspected: &Value) -> Vec<String> {
    let layers = inspected["layers"].as_array().expect("a list of layers").iter();
    layers.map(|layer| layer["diff_id"].as_str().expect("a DiffID").to_owned()).collect()
}

#[test]
fn layers_of_a_system_store_are_used_in_place_and_not_fetched() {
    let (registry, shared, images) = (Registry::plain(), Shared::new(), Images::new());
    let first = registry.push_layout(images.first.path(), "test/first", "1");
    let second = registry.push_layout(images.second.path(), "test/second", "1");
    shared.system.ok(["pull", "--quiet", &first]);
    let before = (Inventory::of(&shared.system.store()), registry.fetched_blobs());

    shared.ok(["pull", "--quiet", &first]);
    let usage = &shared.json(&["du"])["images"][0];
    assert!(usage["elsewhere"].as_u64() > Some(400_000) && usage["apparent"].as_u64() > Some(400_000), "{usage}");
    assert_eq!(usage["on_disk"], 0);
    assert_eq!(registry.fetched_blobs(), before.1, "neither a layer nor the config is fetched again");
    assert_eq!(sound_layers(&shared.user.store()), Vec::<String>::new(), "no layer is copied");
    shared.ok(["pull", "--quiet", &second]);
    let fetched = registry.fetched_blobs();
    let new: Vec<&String> = fetched.iter().skip(before.1.len()).collect();
    assert!(new.contains(&&images.second.layer_digests()[1]), "its own layer is fetched: {new:?}");
    assert!(!new.contains(&&images.second.layer_digests()[0]), "the shared one is not: {new:?}");
    assert_eq!(sound_layers(&shared.user.store()).len(), 1);

    assert_used_as_any_other(&shared, &second);
    assert_eq!(Inventory::of(&shared.system.store()), before.0, "the system store is as it was");
    assert_eq!(leftovers(&shared.system.store()), Vec::<PathBuf>::new());
    shared.user.traces().assert_nothing_left();
}

/// Every command that reads an image takes one with a layer in each store.
fn assert_used_as_any_other(shared: &Shared, reference: &str) {
    let alone = Session::user();
    alone.ok(["pull", "--quiet", reference]);
    let base = shared.ok(["prepare", reference]);
    assert_eq!(base, alone.ok(["prepare", reference]), "a base does not depend on where its layers are");
    assert!(shared.user.store().join("bases").join(base.trim()).join("index").is_file(), "it is made in the own store");
    let point = alone.mount(reference, "mounted");
    assert_eq!(shared.tree(reference).to_string(), alone.tree(&point).to_string());
    alone.umount(&point);

    let inspected = shared.json(&["inspect", reference]);
    let stores: Vec<&str> =
        inspected["layers"].as_array().unwrap().iter().map(|layer| layer["store"].as_str().unwrap()).collect();
    assert_eq!(stores, [shared.system.store().to_str().unwrap(), shared.user.store().to_str().unwrap()]);
    assert_eq!(shared.json(&["verify", reference])["layers"], 2);
    let directory = shared.user.directory().join("work/exported");
    shared.ok([OsStr::new("export"), OsStr::new(reference), directory.as_os_str()]);
    for layer in layers(&inspected) {
        let blob = std::fs::read(directory.join("blobs").join(layer.replace(':', "/"))).expect("an exported layer");
        assert_eq!(digest(&blob), layer);
    }
}

#[test]
fn image_named_in_the_system_store_is_found_until_the_own_store_has_the_name() {
    let (shared, images) = (Shared::new(), Images::new());
    shared.system.import(images.first.path(), IMAGE);
    let listed = shared.json(&["images"]);
    assert_eq!(listed[0]["store"], shared.system.store().to_str().unwrap());
    assert_eq!(listed[0]["error"], Value::Null);
    shared
        .run(["prepare", IMAGE, "--store", shared.system.store().to_str().unwrap(), "--layer", "/etc/apt"])
        .refused(&format!("--additional-store {}", shared.system.store().display()));
    let first = shared.tree(IMAGE).to_string();
    let base = shared.ok(["prepare", IMAGE]);
    let top = top(&shared.user, "a variant");
    assert_ne!(shared.ok(["prepare", IMAGE, "--layer", top.to_str().unwrap()]), base);

    shared.run(["rmi", IMAGE]).refused(&format!("--store {}", shared.system.store().display()));
    // Known as a layer of an image in the additional store, otherwise garbage.
    let bases = |arguments: &[&str], also: bool| -> usize {
        let command = if also { shared.lamina(arguments) } else { shared.user.lamina(arguments) };
        let mut command = command;
        let collected: Value = serde_json::from_str(&Finished::of(&mut command).succeeded().stdout).unwrap();
        let garbage = collected["garbage"].as_array().unwrap().iter();
        garbage.filter(|each| each["kind"] == "base" && each["name"] == base.trim()).count()
    };
    assert_eq!(bases(&["gc", "--dry-run", "--json"], true), 0);
    assert_eq!(bases(&["gc", "--dry-run", "--json"], false), 1);

    shared.ok(["import", images.second.path().to_str().unwrap(), "--tag", IMAGE]);
    assert_eq!(sound_layers(&shared.user.store()).len(), 3, "the variant's, and those of the image that was imported");
    assert_ne!(shared.tree(IMAGE).to_string(), first, "the own name comes first");
    shared.ok(["rmi", IMAGE]);
    assert_eq!(shared.tree(IMAGE).to_string(), first);
    // As options, twice, and with the user's own store among them.
    let (system, own) = (shared.system.store(), shared.user.store());
    let options = ["--also-read", system.to_str().unwrap(), "--also-read", own.to_str().unwrap()];
    assert_eq!(shared.user.ok(["prepare", IMAGE].iter().chain(&options)), base);
    shared.user.run(["prepare", IMAGE, "--also-read", "/nowhere"]).refused("/nowhere: there is no store here");
}

#[test]
fn view_of_a_system_store_without_leases_outlives_a_collection_and_a_pull_brings_the_layer() {
    let (registry, shared, images) = (Registry::plain(), Shared::new(), Images::new());
    let reference = registry.push_layout(images.first.path(), "test/first", "1");
    shared.system.ok(["pull", "--quiet", &reference]);
    shared.ok(["pull", "--quiet", &reference]);
    let point = shared.mount(&reference, "mounted");
    let tree = shared.user.tree(&point).to_string();
    shared.system.ok(["rmi", &reference]);
    shared.system.ok(["gc"]);
    assert_eq!(sound_layers(&shared.system.store()), Vec::<String>::new());
    assert_eq!(shared.user.tree(&point).to_string(), tree, "what is open stays readable");
    shared.user.umount(&point);
    shared.run(["prepare", &reference]).refused("pull the image again");
    shared.ok(["pull", "--quiet", &reference]);
    assert_eq!(shared.tree(&reference).to_string(), tree);
    assert_eq!(sound_layers(&shared.user.store()).len(), 2);
}

#[test]
fn imported_image_outlives_a_collection_in_the_system_store() {
    let (shared, images) = (Shared::new(), Images::new());
    shared.system.import(images.first.path(), IMAGE);
    shared.ok(["import", images.first.path().to_str().unwrap(), "--tag", OTHER]);
    let tree = shared.tree(OTHER).to_string();
    shared.system.ok(["rmi", IMAGE]);
    shared.system.ok(["gc"]);
    assert_eq!(sound_layers(&shared.system.store()), Vec::<String>::new());
    assert_eq!(shared.tree(OTHER).to_string(), tree);
    shared.ok(["verify", OTHER]);
    shared.user.traces().assert_nothing_left();
}

#[test]
fn mount_says_that_it_cannot_hold_what_it_uses_of_a_system_store() {
    let (shared, images) = (Shared::new(), Images::new());
    shared.system.import(images.first.path(), IMAGE);
    let remedy = format!("chmod 1777 {}/leases", shared.system.store().display());
    let point = shared.user.work("mounted");
    let mount = || {
        let finished = shared.run([OsStr::new("mount"), OsStr::new(IMAGE), point.as_os_str()]).succeeded();
        shared.user.umount(&point);
        finished.stderr
    };
    let said = mount();
    assert!(said.contains(&remedy), "{said}");
    shared.open_leases();
    assert_eq!(mount(), "");
}

#[test]
fn view_of_a_system_store_with_open_leases_holds_what_it_uses() {
    let (shared, images) = (Shared::new(), Images::new());
    shared.system.import(images.first.path(), IMAGE);
    shared.open_leases();
    let point = shared.mount(IMAGE, "mounted");
    let own = layers(&shared.json(&["inspect", IMAGE])).pop().expect("a layer");
    shared.system.ok(["rmi", IMAGE]);
    shared.system.ok(["gc"]);
    assert_eq!(sound_layers(&shared.system.store()).len(), 2);
    let mount = format!("a mount of {IMAGE} on {}", point.display());
    assert!(shared.system.ok(["gc", "--explain", &own]).contains(&mount));
    assert!(shared.ok(["gc", "--explain", &own]).contains(&mount), "a reader may ask too");
    shared.user.umount(&point);
    shared.user.traces().assert_nothing_left();
    shared.system.ok(["gc"]);
    assert_eq!(sound_layers(&shared.system.store()), Vec::<String>::new());
    assert_eq!(leftovers(&shared.system.store()), Vec::<PathBuf>::new());
}

#[test]
fn index_that_the_system_store_lacks_is_made_in_the_own_store_and_goes_with_its_image() {
    let (registry, shared, images) = (Registry::plain(), Shared::new(), Images::new());
    shared.system.import(images.first.path(), IMAGE);
    // Not imported: that would store the layer.
    shared.ok(["pull", "--quiet", &registry.push_layout(images.second.path(), "test/second", "1")]);
    let expected = shared.tree(IMAGE).to_string();
    make_older(&shared.system.store());
    let before = Inventory::of(&shared.system.store());
    shared.ok(["gc"]);
    assert_eq!(shared.tree(IMAGE).to_string(), expected);
    assert_eq!(Inventory::of(&shared.system.store()), before);
    let borrowed = || std::fs::read_dir(shared.user.store().join("indexes")).expect("borrowed indexes").count();
    assert_eq!(borrowed(), 2);
    shared.ok(["gc"]);
    assert_eq!(borrowed(), 2, "an image of the system store needs them");
    // The server of a mount holds its layers until it has ended.
    shared.user.traces().assert_nothing_left();
    shared.user.ok(["gc"]);
    assert_eq!(borrowed(), 1, "an image of the own store has one of the layers");
}

/// Gives every index of a store another version, as an older or a newer program would have left it.
pub(super) fn make_older(store: &Path) {
    for layer in std::fs::read_dir(store.join("layers/sha256")).expect("the layers") {
        set_version(&layer.expect("a layer").path().join("index"), 0);
    }
}

/// Sets the version in the header of an index or a base: four bytes at offset 8, little-endian.
pub(super) fn set_version(path: &Path, version: u32) {
    let mut bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn damaged_layer_of_a_system_store_is_named_and_its_repair_goes_to_the_own_store() {
    let (registry, shared) = (Registry::plain(), Shared::new());
    let layout = Layout::of(&[Layer::of_files(&[("etc/motd", b"welcome\n")])]);
    let reference = registry.push_layout(layout.path(), "test/damaged", "1");
    shared.system.ok(["pull", "--quiet", &reference]);
    shared.ok(["pull", "--quiet", &reference]);
    let layer = sound_layers(&shared.system.store()).pop().expect("a layer");
    let blob = shared.system.store().join("layers").join(layer.replace(':', "/")).join("blob");
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[512] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let found = shared.run(["verify", &reference]);
    assert_eq!(found.status.code(), Some(1), "{found}");
    assert!(found.stdout.contains(&layer) && found.stdout.contains("etc/motd"), "{found}");
    shared.ok(["verify", "--repair", &reference]);
    assert_eq!(sound_layers(&shared.user.store()), [layer]);
    shared.ok(["verify", &reference]);
}

/// A thin layer of the system store is read with its donors there. A layer of the user's own store is whole: root may collect
/// what it would borrow from root's store.
#[test]
fn thin_layer_of_a_system_store_is_used_in_place_and_nothing_is_borrowed_across_stores() {
    let (shared, twins) = (Shared::new(), Twins::new());
    shared.system.import(twins.donor.path(), IMAGE);
    let own = shared.user.work("own").join("layout");
    shared.ok([OsStr::new("import"), twins.borrower.path().as_os_str(), OsStr::new("--tag"), OsStr::new(OTHER)]);
    assert_eq!(with_thin(&shared.user.store()), 0, "in the user's store");
    let tree = shared.tree(OTHER);
    shared.ok(["rmi", OTHER]);
    shared.ok(["gc"]);

    shared.system.import(twins.borrower.path(), OTHER);
    assert_eq!(with_thin(&shared.system.store()), 1, "in root's store");
    let before = Inventory::of(&shared.system.store());
    shared.tree(OTHER).assert_same(&tree, &[], "a thin layer that is lent");
    shared.ok([OsStr::new("export"), OsStr::new(OTHER), own.as_os_str()]);
    assert_eq!(sound_layers(&shared.user.store()), Vec::<String>::new());
    let after = Inventory::of(&shared.system.store());
    assert_eq!(after.added_since(&before), Vec::<&Path>::new(), "the user wrote there");
    let diff_id = twins.layers[1].diff_id();
    let blob = std::fs::read(own.join("blobs").join(diff_id.replace(':', "/"))).expect("the exported layer");
    assert_eq!(digest(&blob), diff_id);
    shared.user.traces().assert_nothing_left();
}

/// How many layers of a store are thin.
fn with_thin(store: &Path) -> usize {
    let layers = std::fs::read_dir(store.join("layers/sha256")).into_iter().flatten().flatten();
    layers.filter(|layer| layer.path().join("thin").exists()).count()
}
