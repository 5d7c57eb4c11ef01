//! Layers that containerd unpacks itself, and pulls beside each other.

use std::path::Path;
use std::process::Command;

use end_to_end::layout::{Layer, digest};
use end_to_end::programs::installed;
use end_to_end::{Deviation, Finished, TreeDump};

use super::fixture::{Node, base};

/// Changes of every kind to what is in [`base`].
fn changes() -> Layer {
    Layer::of_script(
        "mkdir -p etc usr/bin new/sub dir
         touch etc/.wh.layer dir/.wh..wh..opq; echo x > dir/only
         echo text > new/a; ln new/a new/sub/b; ln -s a new/link; mkfifo new/pipe
         chown 33:44 new/a; chmod 4755 new/a; chmod 0700 new/sub
         mknod new/device c 1 3; touch -d @1500000000.123456789 new/sub/b
         setfattr -n user.note -v value new/a; setcap cap_net_raw+ep new/a
         touch -d @1400000000 dir new etc usr/bin usr new/sub",
    )
}

fn mounted(node: &Node, reference: &str, snapshotter: &str) -> TreeDump {
    let point = node.session.work(snapshotter);
    let path = point.display().to_string();
    node.ok(&["image", "mount", "--snapshotter", snapshotter, reference, &path]);
    let tree = node.session.tree(&point);
    node.ok(&["image", "unmount", "--rm", "--snapshotter", snapshotter, &path]);
    tree
}

#[test]
fn a_tree_that_containerd_unpacks_is_the_one_of_its_overlayfs_snapshotter() {
    /// containerd makes root directories itself, at the time of the call.
    const ROOT: Deviation = Deviation {
        reason: "the time of the root is that of its unpacking",
        applies: |path, field, _, _| path == "." && field == "mtime",
    };
    let node = Node::new();
    let image = node.push("changes", &[base(), Layer::of_script("mkdir dir; echo old > dir/old"), changes()]);
    for snapshotter in ["overlayfs", "lamina"] {
        node.pull_by_ctr(snapshotter, &image);
    }
    let [expected, found] = ["overlayfs", "lamina"].map(|snapshotter| mounted(&node, &image, snapshotter));
    assert!(expected.get("new/a").is_some_and(|fields| fields["mode"] == "4755") && expected.get("dir/old").is_none());
    expected.assert_same(&found, &[ROOT], "as overlayfs");
    // Each layer is named by what it holds: what containerd unpacked need not be the tar that the image names.
    for layer in node.layers() {
        node.session.ok(["verify"]);
        let blob = node.session.store().join("layers").join(layer.replace(':', "/")).join("blob");
        if blob.exists() {
            assert_eq!(digest(&std::fs::read(&blob).unwrap()), layer);
        }
    }
    node.remove_image(&image);
    node.collect();
    end_to_end::until("all layers to be freed", || node.layers().is_empty());
}

#[test]
fn layers_that_containerd_unpacks_again_are_stored_once() {
    let node = Node::new();
    let layers = [base(), Layer::of_files(&[("top", b"top")])];
    let [one, two] = ["one", "two"].map(|name| node.push(name, &layers));
    node.pull_by_ctr("lamina", &one);
    let stored = node.layers();
    assert_eq!(stored.len(), 2);
    // In another namespace, containerd does not know that it has unpacked them.
    node.ok(&[&["--namespace", "other"], &Node::ctr_pull("lamina")[..], &[&two]].concat());
    assert_eq!(node.layers(), stored);
    // What it has unpacked is linked to the chain: nothing is made again, and nothing is fetched.
    let fetched = node.registry.fetched_blobs();
    node.pull_by_ctr("lamina", &two);
    assert_eq!((node.layers(), node.registry.fetched_blobs().len()), (stored, fetched.len()));
}

#[test]
fn an_empty_layer_and_a_layer_that_comes_twice_are_layers_like_others() {
    let node = Node::new();
    let empty = Layer::of_tar(vec![0; 1024]);
    let top = Layer::of_files(&[("top", b"top")]);
    let layers = [base(), empty.clone(), top.clone(), empty, top];
    let [pulled, unpacked] = ["pulled", "unpacked"].map(|name| node.push(name, &layers));
    assert_eq!(node.pull(&pulled)["layers"], 5);
    assert_eq!(node.run(&pulled, "a", "cat /top"), "top");
    node.remove_image(&pulled);
    node.pull_by_ctr("lamina", &unpacked);
    assert_eq!(node.run(&unpacked, "b", "cat /top"), "top");
}

#[test]
fn an_image_in_two_namespaces_is_stored_once() {
    let node = Node::new();
    let layers = [base(), Layer::of_files(&[("top", b"top")])];
    let image = node.push("one", &layers);
    node.pull(&image);
    let socket = node.session.directory().join("c.sock").display().to_string();
    let mut command = node.lamina(&["pull", "--json", "--namespace", "other", "--address", &socket, &image]);
    let again = Finished::of(&mut command).succeeded();
    assert!(again.stdout.contains("\"fetched\":0"), "{again}");
    node.remove_image(&image);
    assert_eq!(node.layers().len(), 2, "the other namespace needs them");
    let listed = node.ok(&["--namespace", "other", "snapshot", "--snapshotter", "lamina", "ls"]);
    assert_eq!(listed.lines().filter(|line| line.starts_with("sha256:")).count(), 2, "{listed}");
    node.ok(&["--namespace", "other", "image", "rm", "--sync", &image]);
    node.collect();
    end_to_end::until("all layers to be freed", || node.layers().is_empty());
}

#[test]
fn pulls_of_one_image_at_once_all_succeed_and_leave_one_of_each_layer() {
    let node = Node::new();
    let layers = [base(), Layer::of_files(&[("top", b"top")])];
    let image = node.push("one", &layers);
    std::thread::scope(|scope| {
        let by_lamina: Vec<_> = (0..2).map(|_| scope.spawn(|| node.pull(&image))).collect();
        let by_containerd = scope.spawn(|| node.pull_by_ctr("lamina", &image));
        by_lamina.into_iter().for_each(|pull| drop(pull.join().expect("a pull")));
        by_containerd.join().expect("a pull of containerd");
    });
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
    let snapshots = node.ok(&["snapshot", "--snapshotter", "lamina", "ls"]);
    assert_eq!(snapshots.lines().filter(|line| line.contains("Committed")).count(), 2, "{snapshots}");
    node.remove_image(&image);
    node.collect();
    end_to_end::until("all layers to be freed", || node.layers().is_empty());
    let left = node.session.directory().join("snapshotter/snapshots");
    assert_eq!(entries(&left), 0, "snapshots that are left");
}

#[test]
fn an_image_moves_between_snapshotters_and_to_a_registry() {
    let node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    node.pull(&image);
    let copy = node.registry.name("copy:1");
    let push = ["image", "push", "--plain-http", &copy, &image];
    let refused = node.ctr(&push);
    assert!(refused.stderr.contains("not found"), "containerd has no compressed layers: {refused}");
    // containerd fetches what it lacks, and unpacks it for its own snapshotter.
    node.pull_by_ctr("overlayfs", &image);
    let root = node.path("runc").display().to_string();
    for snapshotter in ["overlayfs", "lamina", "overlayfs"] {
        let id = node.id(snapshotter);
        let words =
            ["run", "--rm", "--snapshotter", snapshotter, "--runc-root", &root, &image, &id, "/bin/cat", "/top"];
        assert_eq!(node.ok(&words), "top", "{snapshotter}");
    }
    node.ok(&push);
    node.remove_image(&image);
    node.collect();
    end_to_end::until("all layers to be freed", || node.layers().is_empty());
    // And back: containerd has all of the copy, and unpacks it into the store.
    node.pull_by_ctr("overlayfs", &copy);
    node.pull(&copy);
    assert_eq!(node.run(&copy, "b", "cat /top"), "top");
}

#[test]
fn a_layer_that_does_not_fit_on_the_disk_is_unpacked_again_once_it_does() {
    let on_small_disk = |session: &end_to_end::Session, size: &str| {
        let words = ["-t", "tmpfs", "-o", size, "tmpfs"];
        Finished::of(Command::new(installed("mount")).args(words).arg(session.store())).succeeded();
    };
    let node = Node::prepared(|session| on_small_disk(session, "size=4m"));
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    let pull = [&Node::ctr_pull("lamina")[..], &[&image]].concat();
    let refused = node.ctr(&pull);
    assert!(!refused.status.success() && refused.stderr.contains("No space left"), "{refused}");
    on_small_disk(&node.session, "remount,size=64m");
    node.ok(&pull);
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("a directory of the snapshotter").count()
}
