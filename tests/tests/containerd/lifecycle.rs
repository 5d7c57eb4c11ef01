//! Images and containers from beginning to end.

use end_to_end::layout::{Layer, noise};
use end_to_end::{Finished, until};

use super::fixture::{LARGE, Node, base, sorted};

#[test]
fn images_are_fetched_once_and_containers_share_a_view_and_not_what_they_write() {
    let node = Node::new();
    let [lowest, first, second] = [base(), Layer::of_files(&[("first", b"1")]), Layer::of_files(&[("second", b"2")])];
    let one = node.push("one", &[lowest.clone(), first.clone()]);
    let two = node.push("two", &[lowest.clone(), second.clone()]);
    assert_eq!(node.pull(&one)["fetched"], 2);
    assert_eq!(node.pull(&two)["fetched"], 1);
    let fetched = node.registry.fetched_blobs();
    node.start(&one, "a");
    assert_eq!(node.run(&one, "b", "echo b > /first; cat /first /etc/layer"), "b\nbase\n");
    assert_eq!(node.exec("a", "cat /first; echo a > /etc/layer; rm /large; ls /large || true"), "1");
    assert_eq!(node.run(&one, "c", "cat /first /etc/layer; wc -c < /large"), format!("1base\n{LARGE}\n"));
    assert_eq!(node.views().len(), 1, "containers of one image share a view");
    assert_eq!(node.run(&two, "d", "cat /second; ls /first || echo none"), "2none\n");
    assert_eq!(node.registry.fetched_blobs(), fetched, "containerd fetches nothing again");
    assert_eq!(node.layers(), sorted([lowest, first, second].iter().map(Layer::diff_id).collect()));
    // A view of a snapshot can only be read.
    node.end("a");
    let blobs = node.ok(&["content", "ls", "--quiet"]);
    assert_eq!(blobs.lines().count(), 4, "containerd has manifests and configs, and no layers: {blobs}");
}

#[test]
fn a_removed_image_frees_its_layers_when_the_last_container_on_them_is_gone() {
    let node = Node::new();
    let [lowest, first, second] =
        [base(), Layer::of_files(&[("a", &noise(1, 90_000))]), Layer::of_files(&[("b", b"2")])];
    let one = node.push("one", &[lowest.clone(), first]);
    let two = node.push("two", &[lowest.clone(), second.clone()]);
    node.pull(&one);
    node.pull(&two);
    assert_eq!(node.session.ok(["images", "--json"]).trim(), "[]", "the store's own names would keep the layers");
    let usage = node.session.json(["du", "--json"]);
    let pin = &usage["pins"][0];
    assert_eq!(
        (&pin["purpose"], pin["layers"].as_array().map(Vec::len)),
        (&"containerd (namespace default)".into(), Some(3))
    );
    assert!(node.session.ok(["du"]).contains("containerd (namespace default) keeps "));
    node.session.ok(["gc"]);
    node.start(&one, "a");
    node.remove_image(&one);
    assert_eq!(node.layers().len(), 3, "a container runs on the layers");
    assert_eq!(node.exec("a", "tail -c 4 /large; wc -c < /a"), "end\n90000\n");
    node.end("a");
    node.collect();
    until("the layers of the first image to be freed", || {
        node.layers() == sorted(vec![lowest.diff_id(), second.diff_id()])
    });
    assert_eq!(node.run(&two, "b", "cat /b"), "2");
    node.remove_image(&two);
    node.collect();
    until("all layers to be freed", || node.layers().is_empty());
    assert!(node.views().is_empty(), "{:?}", node.views());
}

#[test]
fn usage_of_a_snapshot_is_what_it_takes() {
    let node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("own", &noise(2, 300_000))])]);
    node.pull(&image);
    node.start(&image, "a");
    node.exec("a", "cat /large > /copy");
    let usage = node.ok(&["snapshot", "--snapshotter", "lamina", "usage", "-b"]);
    let size = |name: &str| -> u64 {
        let line = usage.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {usage}"));
        line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert!((LARGE as u64..LARGE as u64 + 200_000).contains(&size(&node.id("a"))), "{usage}");
    let layers: u64 = usage.lines().filter(|line| line.starts_with("sha256:")).map(|line| size(&line[..71])).sum();
    let store = node.session.json(["du", "--json"]);
    let sum = ["blobs", "indexes"].iter().map(|field| store[field].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(layers, sum, "{usage}");
    node.end("a");
}

#[test]
fn what_a_container_has_written_becomes_a_layer_when_it_is_committed() {
    let node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("dir/old", b"old"), ("gone", b"gone")])]);
    node.pull(&image);
    node.start(&image, "a");
    node.exec("a", "rm -r /gone /dir; echo new > /etc/new; sh -c 'cd / && ls' > /etc/list");
    node.ok(&["task", "rm", "--force", &node.id("a")]);
    node.ok(&["snapshot", "--snapshotter", "lamina", "commit", "committed", &node.id("a")]);
    let point = node.session.work("view");
    node.make_snapshot("View", "look", "committed");
    let mounts = node.ok(&["snapshot", "--snapshotter", "lamina", "mounts", &point.display().to_string(), "look"]);
    Finished::of(node.session.command("/bin/sh".as_ref()).args(["-ec", mounts.trim()])).succeeded();
    let read = |path: &str| std::fs::read_to_string(point.join(path));
    assert_eq!(read("etc/new").unwrap(), "new\n");
    assert_eq!(read("etc/layer").unwrap(), "base\n");
    assert!(!point.join("gone").exists() && !point.join("dir").exists());
    assert!(std::fs::write(point.join("etc/x"), "").is_err(), "a view can only be read");
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
    node.ok(&["snapshot", "--snapshotter", "lamina", "rm", "look"]);
    node.ok(&["container", "rm", &node.id("a")]);
}
