//! Disks that are full or read-only: a clear message, and an unchanged store.

use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::{Layer, digest, noise};
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Actor, Image, Inventory, Layout, Registry, Session};

use super::Images;
use super::shared_content::Twins;
use super::small_disk::{Disk, run};

const KEPT: &str = "lamina.test/kept:1";
const LARGE: &str = "lamina.test/large:1";

pub(super) fn large_image() -> Layout {
    Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=large\n"), ("noise", &noise(9, 6 << 20))])])
}

/// Checks that the store has the same files; the file that fills the disk is not one of them.
fn assert_unchanged(session: &Session, before: &Inventory) {
    assert_eq!(&Inventory::of(&session.store()), before);
    let _ = sound_layers(&session.store());
}

#[test]
fn image_too_large_for_the_disk_is_refused_and_comes_in_after_space_is_made() {
    let session = Session::user();
    let disk = Disk::of(&session, "ext4", 24 << 20);
    let (images, large) = (Images::new(), large_image());
    let large = large.path().to_str().unwrap();
    session.import(images.first.path(), KEPT);
    let point = session.mount(KEPT, "mounted");
    let tree = session.tree(&point).to_string();
    let filler = disk.fill(4 << 20);
    let before = Inventory::of(&session.store());

    let refused = session.run(["import", large, "--tag", LARGE]);
    refused.refused("No space left on device");
    for words in [" bytes and more", " bytes are free", "`lamina gc`"] {
        assert!(refused.stderr.contains(words), "{words:?} in the message\n{refused}");
    }
    // The message reports the space at the time of the failure, not what is free again afterwards.
    let beside = refused.stderr.split("beside those written, ").nth(1).and_then(|rest| rest.split(' ').next());
    let beside: u64 = beside.and_then(|number| number.parse().ok()).expect("a number of bytes");
    assert!(beside < 1 << 20, "{refused}");
    assert_unchanged(&session, &before);
    assert_eq!(session.tree(&point).to_string(), tree, "the mount is untouched");

    std::fs::remove_file(filler).unwrap();
    session.ok(["import", large, "--tag", LARGE]);
    session.ok(["prepare", LARGE]);
    session.umount(&point);
    drop(disk);
    session.traces().assert_nothing_left();
}

/// A full disk is not a failure of the registry, so the request is not repeated, and what was fetched before is used.
#[test]
fn pull_onto_a_full_disk_says_so_once_and_succeeds_after_space_is_made() {
    let (session, registry) = (Session::user(), Registry::plain());
    let reference = registry.push_layout(large_image().path(), "test/large", "1");
    let disk = Disk::of(&session, "ext4", 24 << 20);
    session.import(Images::new().first.path(), KEPT);
    let filler = disk.fill(4 << 20);
    let before = Inventory::of(&session.store());
    let refused = session.run(["pull", &reference]);
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("No space left on device") && refused.stderr.contains("`lamina gc`"), "{refused}");
    assert!(!refused.stderr.contains("(attempt "), "{refused}");
    assert_unchanged(&session, &before);
    std::fs::remove_file(filler).unwrap();
    session.ok(["pull", &reference]);
    session.ok(["prepare", &reference]);
    session.ok(["verify"]);
    drop(disk);
    session.traces().assert_nothing_left();
}

#[test]
fn index_that_does_not_fit_is_no_damage_of_its_layer() {
    let session = Session::user();
    let disk = Disk::of(&session, "ext4", 24 << 20);
    // Many names, for an index that takes more than what is left.
    let names: Vec<String> = (0..2000).map(|number| format!("etc/file-{number}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"small"[..])).collect();
    session.import(Layout::of(&[Layer::of_files(&files)]).path(), KEPT);
    for layer in Inventory::of(&session.store()).layers() {
        std::fs::remove_file(session.store().join(layer).join("index")).expect("an index");
    }
    let filler = disk.fill(32 << 10);
    let before = Inventory::of(&session.store());
    let refused = session.run(["prepare", KEPT]);
    refused.refused("No space left on device");
    for words in [" bytes and more", " bytes are free", "`lamina gc`"] {
        assert!(refused.stderr.contains(words), "{words:?} in the message\n{refused}");
    }
    assert!(!refused.stderr.contains("damaged"), "{refused}");
    assert_unchanged(&session, &before);
    std::fs::remove_file(filler).unwrap();
    session.ok(["prepare", KEPT]);
}

#[test]
fn export_that_does_not_fit_or_may_not_be_made_says_so_of_its_directory_and_leaves_nothing() {
    let session = Session::user();
    let large = large_image();
    session.import(large.path(), LARGE);
    // A disk for the export; the store is elsewhere.
    let other = Session::user();
    let disk = Disk::tmpfs(&other, 4 << 20);
    let layout = other.store().join("layout");
    let layout = layout.to_str().expect("a plain path");
    let refused = session.run(["export", LARGE, layout]);
    refused.refused("No space left on device");
    let bytes = Layer::of_files(&[("etc/os-release", b"ID=large\n"), ("noise", &noise(9, 6 << 20))]).tar_bytes();
    for words in [layout.trim_end_matches("layout"), &format!("it takes {bytes} bytes"), "bytes are free"] {
        assert!(refused.stderr.contains(words), "{words:?} in the message\n{refused}");
    }
    assert_eq!(Inventory::of(&other.store()), Inventory::of(&session.work("nothing")));
    disk.resize_tmpfs(16 << 20);
    session.ok(["export", LARGE, layout]);

    let closed = session.directory().join("closed");
    std::fs::create_dir(&closed).expect("root's directory");
    let refused = session.run(["export", LARGE, closed.join("layout").to_str().expect("a plain path")]);
    refused.refused("Permission denied");
    assert!(!refused.stderr.contains("--store"), "the store is not what may not be written\n{refused}");
}

#[test]
fn machine_on_a_store_whose_disk_fills_runs_on_and_another_one_is_refused() {
    let session = Session::user();
    let disk = Disk::of(&session, "ext4", 320 << 20);
    session.import(&Image::Debian.layout(), KEPT);
    let shared = session.work("shared");
    let share = format!("{}:/media", shared.display());
    let script = "echo here > /media/here; while [ ! -e /media/go ]; do sleep 0.1; done; \
        cat /usr/bin/[a-d]* | sha256sum; echo written > /srv/written && cat /srv/written";
    let run = ["run", "--accel", "tcg", "--network", "none", "-v", &share, KEPT, "--", "/bin/sh", "-c", script];
    let mut machine = session.start(session.lamina(run));
    machine.await_file(&shared.join("here"));
    let _filler = disk.fill(0);
    let before = Inventory::of(&session.store());
    let top = super::top(&session, "a variant of which there is no base");
    let other = ["run", "--accel", "tcg", "--network", "none", "--layer", top.to_str().unwrap(), KEPT, "--", "true"];
    session.run(other).failed("No space left on device");
    assert_unchanged(&session, &before);
    std::fs::write(shared.join("go"), "").unwrap();
    let finished = machine.finish().succeeded();
    let point = session.mount(KEPT, "mounted");
    let sum = "cat usr/bin/[a-d]* | sha256sum";
    let expected =
        end_to_end::Finished::of(session.command(Path::new("sh")).args(["-c", sum]).current_dir(&point)).succeeded();
    assert_eq!(finished.stdout, format!("{}written\n", expected.stdout));
    session.umount(&point);
    drop(disk);
    session.traces().assert_nothing_left();
}

#[test]
fn removing_and_collecting_make_space_on_a_disk_without_any() {
    let session = Session::user();
    let disk = Disk::of(&session, "ext4", 24 << 20);
    let (images, large) = (Images::new(), large_image());
    session.import(large.path(), LARGE);
    session.ok(["prepare", LARGE]);
    session.import(images.first.path(), KEPT);
    let _filler = disk.fill(0);
    assert!(disk.free_bytes() < 4 << 10, "{} bytes are free", disk.free_bytes());
    let before = Inventory::of(&session.store());
    session.run(["prepare", KEPT]).refused("No space left on device");
    assert_unchanged(&session, &before);

    session.ok(["rmi", LARGE]);
    session.ok(["gc"]);
    assert!(disk.free_bytes() > 6 << 20, "{} bytes are free", disk.free_bytes());
    session.ok(["prepare", KEPT]);
}

#[test]
fn wherever_space_ends_an_import_and_a_preparation_happen_wholly_or_not_at_all() {
    let images = Images::new();
    wherever_space_ends(&images.first, &images.second, &[0, 1, 2, 3, 4, 6, 8, 12, 16, 18, 20, 22, 24, 26, 28, 32, 40]);
}

/// The second image's layer is written whole before the common content is removed from it.
#[test]
fn wherever_space_ends_content_is_shared_wholly_or_not_at_all() {
    let twins = Twins::new();
    wherever_space_ends(&twins.donor, &twins.borrower, &[0, 60, 118, 120, 121, 122, 123, 124, 125, 126, 127, 130, 140]);
}

#[test]
fn what_is_held_after_space_was_made_is_held_although_its_line_did_not_fit_before() {
    use layer_store::{DiffId, Store};
    // More than one page of lines.
    const LAYERS: usize = 120;
    // The library opens only a store of the user who runs it, or of root.
    let session = Session::new(Actor::Root);
    let disk = Disk::tmpfs(&session, 4 << 20);
    Actor::Root.own(&session.store());
    let collector = Store::open(&session.store()).expect("a store");
    let store = Store::open(&session.store()).expect("the store");
    let layers: Vec<DiffId> = (0..LAYERS)
        .map(|number| {
            let layer: DiffId = digest(&number.to_le_bytes()).parse().expect("a DiffID");
            let directory = session.store().join("layers/sha256").join(layer.0.hex());
            std::fs::create_dir(&directory).expect("a layer");
            std::fs::write(directory.join("blob"), "").expect("a layer");
            layer
        })
        .collect();
    assert!(store.layers().has(&layers[0]));
    let filler = disk.fill(0);
    assert!(!layers.iter().all(|layer| store.layers().has(layer)), "the disk is full");
    std::fs::remove_file(filler).expect("space");
    assert!(layers.iter().all(|layer| store.layers().has(layer)));
    collector.collect(false).expect("a collection");
    assert!(layers.iter().all(|layer| collector.layers().has(layer)), "a layer that is held is collected");
}

/// Imports and prepares `second` in a store that has `first`, with this number of free pages.
fn wherever_space_ends(first: &Layout, second: &Layout, free_pages: &[u64]) {
    let session = Session::user();
    let disk = Disk::tmpfs(&session, 64 << 20);
    let second = second.path().to_str().unwrap();
    session.import(first.path(), KEPT);
    let page = rustix::param::page_size() as u64;
    let mut refusals = 0;
    for pages in free_pages {
        disk.resize_tmpfs(disk.used_bytes() + pages * page);
        let before = Inventory::of(&session.store());
        let import = session.run(["import", second, "--tag", LARGE]);
        let prepare = ["prepare", if import.status.success() { LARGE } else { KEPT }];
        if !import.status.success() {
            import.refused("No space left on device");
            assert_unchanged_but_for_layers(&session, &before);
            refusals += 1;
        }
        let imported = Inventory::of(&session.store());
        let prepared = session.run(prepare);
        if !prepared.status.success() {
            prepared.refused("No space left on device");
            assert_unchanged(&session, &imported);
        }
        disk.resize_tmpfs(64 << 20);
        session.ok(["import", second, "--tag", LARGE]);
        session.ok(["prepare", LARGE]);
        session.ok(["rmi", LARGE]);
        // Both bases are collected with the images' names; one image is imported again, without its base.
        session.ok(["rmi", KEPT]);
        session.ok(["gc"]);
        session.import(first.path(), KEPT);
    }
    assert!(refusals > 3, "{refusals} imports were refused");
    assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
}

/// What was stored whole before the disk was full may stay until the next collection, but no name and no part of a layer.
fn assert_unchanged_but_for_layers(session: &Session, before: &Inventory) {
    let after = Inventory::of(&session.store());
    let added = after.added_since(before);
    let whole = |path: &&Path| ["layers", "compressed", "manifests"].iter().any(|name| path.starts_with(name));
    assert!(added.iter().all(whole), "{added:?}");
    let _ = sound_layers(&session.store());
}

#[test]
fn store_that_may_only_be_read_is_read_and_refuses_the_rest() {
    let session = Session::user();
    let disk = Disk::tmpfs(&session, 64 << 20);
    let images = Images::new();
    session.import(images.first.path(), KEPT);
    let base = session.ok(["prepare", KEPT]);
    disk.make_read_only();
    let before = Inventory::of(&session.store());
    assert_reads(&session, &base);
    let second = images.second.path().to_str().unwrap();
    let agent = super::top(&session, "a variant");
    for arguments in [
        vec!["import", second, "--tag", LARGE],
        vec!["prepare", KEPT, "--layer", agent.to_str().unwrap()],
        vec!["rmi", KEPT],
    ] {
        session.run(&arguments).refused("--store or LAMINA_STORE");
    }
    assert_eq!(Inventory::of(&session.store()), before);
    drop(disk);
    session.traces().assert_nothing_left();
}

#[test]
fn store_of_another_user_is_read_without_writing_it() {
    let session = Session::user();
    let images = Images::new();
    session.import(images.first.path(), KEPT);
    let base = session.ok(["prepare", KEPT]);
    run(Command::new("chown").args(["-R", "0:0"]).arg(session.store()));
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(session.store()));
    assert_reads(&session, &base);
    session.run(["rmi", KEPT]).refused("--store or LAMINA_STORE");
    session.traces().assert_nothing_left();
}

fn assert_reads(session: &Session, base: &str) {
    assert!(session.ok(["images"]).contains("lamina.test/kept"));
    assert!(session.ok(["inspect", KEPT]).contains("/bin/sh"));
    assert!(session.ok(["du"]).contains("lamina.test/kept"));
    assert_eq!(session.ok(["prepare", KEPT]), base);
    session.ok(["gc", "--dry-run"]);
    let point = session.mount(KEPT, "mounted");
    assert!(session.tree(&point).get("etc/os-release").is_some());
    session.umount(&point);
}
