//! Content that several layers have is kept once: what users see, on real disks, and while processes are killed or
//! collections run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::{Layer, noise};
use end_to_end::programs::installed;
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Finished, Layout, Registry, Session};
use layer_store::FaultPoint;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

pub(crate) const DONOR: &str = "lamina.test/donor:1";
pub(crate) const BORROWER: &str = "lamina.test/borrower:1";

const COMMON: usize = 400_000;

/// Two images whose layers have a large file in common, under different names.
pub(crate) struct Twins {
    pub(crate) donor: Layout,
    pub(crate) borrower: Layout,
    pub(crate) layers: [Layer; 2],
}

impl Twins {
    pub(crate) fn new() -> Self {
        let common = noise(50, COMMON);
        let donor = Layer::of_files(&[("common", &common), ("own", &noise(51, 2_000_000))]);
        let borrower = Layer::of_files(&[("etc/own", &noise(52, 90_000)), ("moved/common", &common)]);
        let layout = |layer: &Layer| Layout::of(std::slice::from_ref(layer));
        Self { donor: layout(&donor), borrower: layout(&borrower), layers: [donor, borrower] }
    }
}

fn import<'a>(layout: &'a Layout, reference: &'a str) -> [&'a OsStr; 4] {
    [OsStr::new("import"), layout.path().as_os_str(), OsStr::new("--tag"), OsStr::new(reference)]
}

/// Bytes on the disk, as `du` counts them.
fn du(path: &Path) -> u64 {
    let counted = Finished::of(Command::new(installed("du")).args(["--block-size=1"]).arg(path)).succeeded().stdout;
    counted.split_whitespace().next().expect("a number").parse().expect("a number")
}

#[test]
fn shared_content_takes_space_once_and_du_says_with_whom() {
    let (session, twins) = (Session::user(), Twins::new());
    session.import(twins.donor.path(), DONOR);
    session.import(twins.borrower.path(), BORROWER);
    let thin = session.layer_file(&twins.layers[1], "thin");
    assert!(du(&thin) < 120_000, "its own file, and of the common one what is no whole block: {}", du(&thin));

    let usage = session.json(["du", "--json"]);
    let layer = |number: usize| {
        let layers = usage["layers"].as_array().expect("a list of layers");
        layers.iter().find(|layer| layer["diff_id"] == twins.layers[number].diff_id()).expect("the layer")
    };
    assert_eq!(layer(1)["blob"], du(&thin));
    assert_eq!(layer(0)["blob"], du(&session.layer_file(&twins.layers[0], "blob")));
    let saved = &layer(1)["borrows"][twins.layers[0].diff_id()];
    assert_eq!(&usage["saved_by_files"], saved);
    assert_eq!(&layer(0)["lends"][twins.layers[1].diff_id()], saved);
    assert!(saved.as_u64().is_some_and(|saved| saved > COMMON as u64 - 2 * 4096), "{saved}");
    let picture = session.work("pictures").join("sharing.svg");
    let text = session.ok([OsStr::new("du"), OsStr::new("--layers"), OsStr::new("--svg"), picture.as_os_str()]);
    assert!(text.contains(&format!("of its content is kept in {}", twins.layers[0].diff_id())), "{text}");
    let picture = std::fs::read_to_string(picture).expect("the picture");
    assert!(picture.contains("stroke-dasharray") && picture.contains("by sharing their content"), "{picture}");

    let export = session.work("export").join("layout");
    session.ok([OsStr::new("export"), OsStr::new(BORROWER), export.as_os_str()]);
    let hex = twins.layers[1].diff_id().trim_start_matches("sha256:").to_owned();
    let blob = export.join("blobs/sha256").join(&hex);
    let summed = Finished::of(Command::new(installed("sha256sum")).arg(&blob)).succeeded().stdout;
    assert!(summed.starts_with(&hex), "{summed}");
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
}

#[test]
fn mounted_tree_is_the_same_with_and_without_sharing() {
    let twins = Twins::new();
    let trees = [&[][..], &["--no-file-sharing"]].map(|options: &[&str]| {
        let session = Session::user();
        session.import(twins.donor.path(), DONOR);
        let mut command = session.lamina(import(&twins.borrower, BORROWER));
        Finished::of(command.args(options)).succeeded();
        let is_thin = session.layer_file(&twins.layers[1], "thin").exists();
        assert_eq!(is_thin, options.is_empty());
        let point = session.mount(BORROWER, "mounted");
        let content = end_to_end::Actor::User.act(|| std::fs::read(point.join("moved/common")).expect("content"));
        let tree = session.tree(&point).to_string();
        session.umount(&point);
        session.traces().assert_nothing_left();
        (tree, content)
    });
    assert!(trees[0] == trees[1]);
    assert!(trees[0].1 == noise(50, COMMON));
    assert!(trees[0].0.contains("moved/common"), "{}", trees[0].0);
}

#[test]
fn variable_and_flag_keep_layers_whole() {
    let twins = Twins::new();
    for (value, is_thin) in [("1", false), ("", true), ("0", true)] {
        let session = Session::user();
        session.import(twins.donor.path(), DONOR);
        let mut command = session.lamina(import(&twins.borrower, BORROWER));
        Finished::of(command.env("LAMINA_NO_FILE_SHARING", value)).succeeded();
        assert_eq!(session.layer_file(&twins.layers[1], "thin").exists(), is_thin, "{value:?}");
    }
}

#[test]
fn directory_put_on_top_is_kept_as_the_flag_says() {
    let twins = Twins::new();
    for (options, thin_layers) in [(&[][..], 1), (&["--no-file-sharing"], 0)] {
        let session = Session::user();
        session.import(twins.donor.path(), DONOR);
        let added = session.work("added");
        std::fs::write(added.join("common"), noise(50, COMMON)).expect("a file to put on top");
        let mut command = session.lamina(["prepare", DONOR, "--layer"]);
        Finished::of(command.arg(&added).args(options)).succeeded();
        let layers = std::fs::read_dir(session.store().join("layers/sha256")).expect("layers").flatten();
        assert_eq!(layers.filter(|layer| layer.path().join("thin").exists()).count(), thin_layers, "{options:?}");
    }
}

#[test]
fn file_system_without_holes_keeps_layers_whole_and_says_nothing() {
    let (session, twins) = (Session::user(), Twins::new());
    mount("ramfs", session.store(), "ramfs", MountFlags::empty(), Some(c"mode=755")).expect("a ramfs");
    end_to_end::Actor::User.own(&session.store());
    session.import(twins.donor.path(), DONOR);
    let imported = session.run(import(&twins.borrower, BORROWER)).succeeded();
    let is_whole = session.layer_file(&twins.layers[1], "blob").is_file();
    let layers = sound_layers(&session.store());
    let described = std::fs::read_to_string(session.store().join("store.json"));
    unmount(session.store(), UnmountFlags::DETACH).expect("unmounted");
    assert_eq!(imported.stderr, "");
    assert!(is_whole);
    assert_eq!(layers.len(), 2);
    assert!(!described.expect("store.json").contains("thin-layers"));
}

#[test]
fn donor_that_is_collected_keeps_what_is_borrowed_and_explain_says_by_whom() {
    let (session, twins) = (Session::user(), Twins::new());
    session.import(twins.donor.path(), DONOR);
    session.import(twins.borrower.path(), BORROWER);
    let point = session.mount(BORROWER, "mounted");
    let tree = session.tree(&point).to_string();
    session.ok(["rmi", DONOR]);
    let said = session.json(["gc", "--dry-run", "--json"]);
    let before = du(&session.layer_file(&twins.layers[0], ""));
    assert_eq!(said, session.json(["gc", "--json"]));
    let freed = before - du(&session.layer_file(&twins.layers[0], ""));
    let garbage = said["garbage"].as_array().expect("a list of garbage");
    let part = garbage.iter().find(|each| each["kind"] == "part").expect("the part that goes");
    assert_eq!(part["name"], twins.layers[0].diff_id());
    assert_eq!(part["bytes"], freed);
    assert!(freed > 1_900_000, "{freed}");
    let explained = session.ok(["gc", "--explain", &twins.layers[0].diff_id()]);
    assert!(explained.contains(&twins.layers[1].diff_id()), "{explained}");
    assert_eq!(session.tree(&point).to_string(), tree);
    session.umount(&point);
    let point = session.mount(BORROWER, "mounted");
    assert_eq!(session.tree(&point).to_string(), tree);
    session.umount(&point);
    session.traces().assert_nothing_left();
    assert_eq!(sound_layers(&session.store()), [twins.layers[1].diff_id()]);
    session.ok(["rmi", BORROWER]);
    session.ok(["gc"]);
    assert_eq!(std::fs::read_dir(session.store().join("layers/sha256")).expect("layers").count(), 0);
    session.traces().assert_nothing_left();
}

#[test]
fn donor_goes_while_its_borrower_comes_in() {
    let twins = Twins::new();
    let arguments = import(&twins.borrower, BORROWER).map(|each| each.to_str().expect("a plain path"));
    use FaultPoint as P;
    for point in [P::DonorChosen, P::SharingMapped, P::SharingPunched, P::LayerKept] {
        let session = Session::user();
        session.import(twins.donor.path(), DONOR);
        let still = session.start(session.faulty(point, true, &arguments));
        still.await_stop();
        session.ok(["rmi", DONOR]);
        session.ok(["gc"]);
        still.signal(Signal::CONT);
        let finished = still.finish();
        assert!(finished.status.success(), "{point:?}: {finished}");
        assert!(sound_layers(&session.store()).contains(&twins.layers[1].diff_id()), "{point:?}");
        session.ok(["gc"]);
        assert_eq!(sound_layers(&session.store()), [twins.layers[1].diff_id()], "{point:?}");
        assert_eq!(session.ok(["verify"]), "1 layer is intact\n", "{point:?}");
        assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new(), "{point:?}");
    }
}

#[test]
fn repairing_the_donor_heals_all_that_borrow_from_it() {
    let (registry, session, twins) = (Registry::plain(), Session::user(), Twins::new());
    let donor = registry.push_layout(twins.donor.path(), "test/donor", "1");
    let borrower = registry.push_layout(twins.borrower.path(), "test/borrower", "1");
    session.ok(["pull", "--quiet", &donor]);
    session.ok(["pull", "--quiet", &borrower]);
    let flip = |layer: usize, name: &str, position: u64| {
        use std::os::unix::fs::FileExt;
        let path = session.layer_file(&twins.layers[layer], name);
        let file = std::fs::File::options().read(true).write(true).open(&path).expect("a file of the layer");
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).expect("a byte");
        file.write_all_at(&[!byte[0]], position).expect("written");
    };
    // In the middle of the common content.
    flip(0, "blob", 200_000);
    let finished = session.run(["verify"]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    for (layer, path) in [(0, "/common has changed"), (1, "/moved/common has changed")] {
        let line = format!("layer {}: {path}", twins.layers[layer].diff_id());
        assert!(finished.stdout.contains(&line), "{line}: {finished}");
    }
    let fetched = registry.fetched_blobs().len();
    // Only the borrower's image is verified; its donor is repaired.
    session.run(["verify", "--repair", &borrower]).succeeded();
    assert_eq!(registry.fetched_blobs()[fetched..], twins.donor.layer_digests()[..]);
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
    assert!(session.layer_file(&twins.layers[1], "thin").exists());

    // A damaged map: the layer is fetched again, whole.
    flip(1, "shared", 100);
    let finished = session.run(["verify", &borrower]);
    assert!(finished.stdout.contains("sharing map"), "{finished}");
    let finished = session.run(["mount", &borrower, session.work("mounted").to_str().expect("a plain path")]);
    assert!(finished.stderr.contains("--repair"), "{finished}");
    session.run(["verify", "--repair", &borrower]).succeeded();
    assert!(session.layer_file(&twins.layers[1], "blob").exists());
    for name in ["thin", "shared"] {
        assert!(!session.layer_file(&twins.layers[1], name).exists(), "{name} is superseded");
    }
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
    session.traces().assert_nothing_left();
}
