//! Layers are freed as soon as nothing uses them, also if that is after the last call of containerd.

use std::path::{Path, PathBuf};

use end_to_end::layout::Layer;
use end_to_end::{Finished, until};
use rustix::mount::{UnmountFlags, unmount};

use super::fixture::{Node, base};

/// A node where a mount of an image's layers has outlived the snapshot and the image, and where that is.
fn node_with_mount(method: &str) -> (Node, PathBuf) {
    let node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    node.pull(&image);
    let snapshots = node.ok(&["snapshot", "--snapshotter", "lamina", "ls"]);
    let words = snapshots.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let top = words.filter(|words| words.len() == 3).find(|words| words[1].starts_with("sha256:"));
    let top = top.unwrap_or_else(|| panic!("{snapshots}"))[0];
    node.make_snapshot(method, "outlived", top);
    let point = node.session.work("mount");
    let mounts = ["snapshot", "--snapshotter", "lamina", "mounts", point.to_str().unwrap(), "outlived"];
    let mount = node.ok(&mounts);
    Finished::of(node.session.command("/bin/sh".as_ref()).args(["-ec", mount.trim()])).succeeded();
    node.ok(&["snapshot", "--snapshotter", "lamina", "rm", "outlived"]);
    node.remove_image(&image);
    node.collect();
    until("the view to be unmounted", || node.views().is_empty());
    assert_eq!(node.ok(&["snapshot", "--snapshotter", "lamina", "ls"]).lines().count(), 1);
    assert_eq!(node.layers().len(), 2, "what is mounted needs them");
    (node, point)
}

/// How often the snapshotter has collected garbage.
fn collections(node: &Node) -> usize {
    node.logs().matches("bytes of the store").count()
}

/// Reads what is mounted, unmounts it, and waits until its layers are freed.
fn end_of_mount_frees_all(node: &Node, point: &Path) {
    assert!(std::fs::read(point.join("large")).unwrap().ends_with(b"end\n"));
    unmount(point, UnmountFlags::empty()).unwrap();
    until("all layers to be freed", || node.layers().is_empty());
}

#[test]
fn layers_below_an_overlay_that_outlives_its_snapshot_are_freed_when_it_ends_and_nobody_calls() {
    let (mut node, point) = node_with_mount("Prepare");
    node.kill_containerd();
    end_of_mount_frees_all(&node, &point);
}

#[test]
fn a_snapshotter_that_was_started_again_frees_layers_below_a_mount_that_ends_later() {
    let (mut node, point) = node_with_mount("View");
    node.kill_snapshotter();
    let before = collections(&node);
    node.start_snapshotter();
    node.kill_containerd();
    until("a collection", || collections(&node) > before);
    assert_eq!(node.layers().len(), 2, "what is mounted needs them");
    end_of_mount_frees_all(&node, &point);
}

#[test]
fn a_snapshotter_that_is_started_again_frees_layers_below_a_mount_that_ended_meanwhile() {
    let (mut node, point) = node_with_mount("Prepare");
    node.kill_snapshotter();
    unmount(&point, UnmountFlags::empty()).unwrap();
    node.start_snapshotter();
    node.kill_containerd();
    until("all layers to be freed", || node.layers().is_empty());
}
