//! A store on common file systems: ext4, xfs, btrfs, tmpfs and overlayfs.

use std::path::Path;

use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Inventory, Layout, Session};
use layer_store::FaultPoint;

use super::small_disk::{Disk, kind_of, run};
use super::{Images, top};

const FIRST: &str = "lamina.test/first:1";
const SECOND: &str = "lamina.test/second:1";

/// What a store goes through: images that share a layer, a process killed in the middle, bases, a mount that a
/// collection must leave alone, a layer whose index is gone.
fn live(session: &Session, kind: &str) {
    assert_eq!(kind_of(&session.store()), kind);
    let images = Images::new();
    let (first, second) = (images.first.path().to_str().unwrap(), images.second.path().to_str().unwrap());
    let elsewhere = Session::user();
    elsewhere.import(images.first.path(), FIRST);
    let expected = elsewhere.ok(["prepare", FIRST]);
    let there = elsewhere.mount(FIRST, "mounted");

    let killed = end_to_end::Finished::of(&mut session.faulty(
        FaultPoint::LayerPublished,
        false,
        &["import", first, "--tag", FIRST],
    ));
    assert!(!killed.status.success(), "{killed}");
    let both = [["import", first, "--tag", FIRST], ["import", second, "--tag", SECOND]];
    let started = both.map(|arguments| session.start(session.lamina(arguments)));
    started.into_iter().for_each(|each| drop(each.finish().succeeded()));
    assert_eq!(session.ok(["prepare", FIRST]), expected);
    let agent = top(session, "a variant");
    session.ok(["prepare", FIRST, "--layer", agent.to_str().unwrap()]);
    let point = session.mount(FIRST, "mounted");
    session.ok(["rmi", FIRST]);
    session.ok(["gc"]);
    assert_eq!(session.tree(&point).to_string(), elsewhere.tree(&there).to_string());
    session.umount(&point);
    elsewhere.umount(&there);
    session.await_no_process();
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()).len(), 2);
    for layer in Inventory::of(&session.store()).layers() {
        std::fs::remove_file(session.store().join(layer).join("index")).expect("an index");
    }
    session.ok(["prepare", SECOND]);
    session.ok(["verify"]);
    session.ok(["du"]);
    session.ok(["rmi", SECOND]);
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()), Vec::<String>::new());
    assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn store_lives_on_ext4() {
    let session = Session::user();
    let _disk = Disk::of(&session, "ext4", 32 << 20);
    live(&session, "ext2/ext3");
}

#[test]
fn store_lives_on_xfs() {
    let session = Session::user();
    let _disk = Disk::of(&session, "xfs", 320 << 20);
    live(&session, "xfs");
}

#[test]
fn store_lives_on_btrfs() {
    let session = Session::user();
    let _disk = Disk::of(&session, "btrfs", 128 << 20);
    live(&session, "btrfs");
}

#[test]
fn store_lives_on_tmpfs() {
    let session = Session::user();
    let _disk = Disk::tmpfs(&session, 32 << 20);
    live(&session, "tmpfs");
}

#[test]
fn store_lives_on_overlayfs() {
    let session = Session::user();
    let _disk = Disk::overlay(&session);
    live(&session, "overlayfs");
}

#[test]
fn no_name_of_an_image_becomes_a_file_name_so_case_does_not_matter() {
    let (session, images) = (Session::user(), Images::new());
    let names = ["lamina.test/image:Tag", "lamina.test/image:tag", "lamina.test/image:TAG"];
    for (name, layout) in names.iter().zip([&images.first, &images.second, &images.first]) {
        session.import(layout.path(), name);
    }
    let bases = names.map(|name| session.ok(["prepare", name]));
    assert!(bases[0] != bases[1] && bases[0] == bases[2], "{bases:?}");
    // Names that are equal on a file system that folds case would be equal here.
    let mut paths = Vec::new();
    list(&session.store(), &mut paths);
    assert!(paths.iter().all(|path| path.chars().all(|sign| !sign.is_uppercase())), "{paths:?}");
    session.ok(["rmi", names[1]]);
    assert_eq!(session.ok(["images", "-q"]).lines().count(), 2);
}

fn list(directory: &Path, paths: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the store") {
        let entry = entry.expect("an entry of the store");
        paths.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().expect("its type").is_dir() {
            list(&entry.path(), paths);
        }
    }
}

/// btrfs limits the size of a subvolume, and fails as every quota does.
#[test]
fn quota_that_is_used_up_is_named_and_leaves_the_store_as_it_was() {
    let session = Session::user();
    let _disk = Disk::of(&session, "btrfs", 256 << 20);
    let (images, large) = (Images::new(), super::full_disks::large_image());
    let btrfs = || std::process::Command::new(end_to_end::programs::installed("btrfs"));
    run(btrfs().args(["quota", "enable"]).arg(session.store()));
    run(btrfs().args(["qgroup", "limit", "4M"]).arg(session.store()));
    session.import(images.first.path(), FIRST);
    let point = session.mount(FIRST, "mounted");
    let tree = session.tree(&point).to_string();
    let before = Inventory::of(&session.store());
    let import = ["import", large.path().to_str().unwrap(), "--tag", SECOND];
    let refused = session.run(import);
    refused.refused("quota exceeded");
    for words in ["bytes and more", "the quota is used up", "`lamina gc`"] {
        assert!(refused.stderr.contains(words), "{words:?} in the message\n{refused}");
    }
    assert_eq!(Inventory::of(&session.store()), before);
    assert_eq!(session.tree(&point).to_string(), tree, "the mount is untouched");
    run(btrfs().args(["qgroup", "limit", "none"]).arg(session.store()));
    session.ok(import);
    session.umount(&point);
}

/// btrfs checks what it reads: where its device has changed, reading fails with an I/O error.
#[test]
fn disk_that_cannot_read_costs_an_index_its_time_and_a_blob_one_file() {
    let session = Session::user();
    let disk = Disk::of(&session, "btrfs", 128 << 20);
    let sound = end_to_end::layout::noise(5, 300_000);
    let rotten = end_to_end::layout::noise(6, 300_000);
    // Many names, so that the index is large enough to have blocks of its own.
    let names: Vec<String> = (0..400).map(|number| format!("etc/file-{number}")).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"small"[..])).collect();
    files.extend([("sound", sound.as_slice()), ("rotten", rotten.as_slice())]);
    let layout = Layout::of(&[end_to_end::layout::Layer::of_files(&files)]);
    session.import(layout.path(), FIRST);
    let layer = sound_layers(&session.store()).pop().expect("a layer");
    let index = session.store().join("layers").join(layer.replace(':', "/")).join("index");
    let index = std::fs::read(index).expect("the index");
    disk.unmount();
    disk.rot(&index[index.len() / 2..][..256]);
    disk.mount();
    let point = session.mount(FIRST, "mounted");
    assert!(session.tree(&point).get("etc/file-399").is_some());
    session.umount(&point);
    session.await_no_process();

    disk.unmount();
    disk.rot(&rotten[150_000..150_256]);
    disk.mount();
    let point = session.mount(FIRST, "mounted");
    let read = |name: &str| {
        let mut command = session.command(&end_to_end::programs::installed("sha256sum"));
        end_to_end::Finished::of(command.arg(point.join(name)))
    };
    assert!(read("sound").status.success());
    let failed = read("rotten");
    assert!(failed.stderr.contains("Input/output error"), "{failed}");
    let found = session.run(["verify"]);
    assert_eq!(found.status.code(), Some(1), "{found}");
    assert!(found.stdout.contains("rotten has changed") && !found.stdout.contains("sound"), "{found}");
    session.umount(&point);
    session.await_no_process();
}

/// ext4 on a failing device that takes no more writes: the kernel reports it when content is synced.
#[test]
fn disk_that_cannot_write_is_named_and_no_name_comes_of_it() {
    a_disk_that_cannot_write(&Images::new().first, &super::full_disks::large_image());
}

/// The same where the new layer has content that the first one has.
#[test]
fn disk_that_cannot_write_leaves_the_layer_whole_that_would_lend() {
    let twins = super::shared_content::Twins::new();
    a_disk_that_cannot_write(&twins.donor, &twins.borrower);
}

fn a_disk_that_cannot_write(first: &Layout, second: &Layout) {
    let session = Session::user();
    let disk = Disk::on_failing_device(&session, 48 << 20);
    session.import(first.path(), FIRST);
    let point = session.mount(FIRST, "mounted");
    let tree = session.tree(&point).to_string();
    disk.fail_writes(true);
    let import = ["import", second.path().to_str().unwrap(), "--tag", SECOND];
    let refused = session.run(import);
    refused.refused("Input/output error");
    assert!(refused.stderr.contains("the disk fails") && refused.stderr.contains("dmesg"), "{refused}");
    assert_eq!(session.ok(["images", "-q"]).lines().collect::<Vec<_>>(), [FIRST]);
    let agent = top(&session, "a variant");
    let prepare = ["prepare", FIRST, "--layer", agent.to_str().unwrap()];
    let before = Inventory::of(&session.store());
    let refused = session.run(prepare);
    refused.refused("Input/output error");
    assert!(refused.stderr.contains("the disk fails") && refused.stderr.contains("dmesg"), "{refused}");
    assert_eq!(Inventory::of(&session.store()), before, "nothing is left of the variant");
    assert_eq!(session.tree(&point).to_string(), tree, "the mount is untouched");
    session.umount(&point);
    disk.fail_writes(false);
    session.ok(import);
    let elsewhere = Session::user();
    elsewhere.import(first.path(), FIRST);
    assert_eq!(session.ok(prepare), elsewhere.ok(prepare));
    session.ok(["verify"]);
    session.ok(["gc"]);
    assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new());
}
