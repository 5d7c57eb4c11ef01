//! The snapshotter ends, in every way, and comes back.

use end_to_end::layout::Layer;
use rustix::process::{Signal, kill_process};

use super::fixture::{Node, base};

fn node_with_image() -> (Node, String) {
    let node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    node.pull(&image);
    (node, image)
}

#[test]
fn containers_read_on_while_the_snapshotter_is_killed_and_new_ones_share_their_view_after_it() {
    let (mut node, image) = node_with_image();
    node.start(&image, "a");
    let server = node.server();
    node.kill_snapshotter();
    assert_eq!(node.exec("a", "tail -c 4 /large; cat /top"), "end\ntop");
    let refused = node.ctr(&["run", "--snapshotter", "lamina", "--rm", &image, &node.id("x"), "/bin/sh", "-c", ":"]);
    assert!(!refused.status.success(), "nothing answers: {refused}");
    node.start_snapshotter();
    assert_eq!(node.run(&image, "b", "cat /top"), "top");
    assert_eq!(node.server(), server, "the view is found again");
    node.end("a");
    node.stop_snapshotter();
    node.start_snapshotter();
    assert_eq!(node.run(&image, "c", "cat /top"), "top");
}

#[test]
fn a_container_starts_again_after_a_reboot() {
    let (mut node, image) = node_with_image();
    node.start(&image, "a");
    node.exec("a", "echo written > /etc/layer");
    node.ok(&["task", "rm", "--force", &node.id("a")]);
    // As after a reboot: no process, no mount, and nothing below /run.
    node.kill_snapshotter();
    kill_process(node.server(), Signal::KILL).unwrap();
    for view in node.views() {
        rustix::mount::unmount(&view, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    std::fs::remove_dir_all(node.session.directory().join("run/snapshotter")).unwrap();
    node.start_snapshotter();
    node.ok(&["task", "start", "--null-io", "--detach", &node.id("a")]);
    assert_eq!(node.exec("a", "cat /etc/layer /top"), "written\ntop");
    node.end("a");
}

#[test]
fn a_view_whose_server_was_killed_is_mounted_again_for_new_containers() {
    let (node, image) = node_with_image();
    // A view that no container uses could be unmounted at any time.
    node.start(&image, "a");
    let view = node.views().pop().expect("a view");
    kill_process(node.server(), Signal::KILL).unwrap();
    end_to_end::until("the view to be dead", || {
        rustix::fs::statfs(&view).is_err_and(|errno| errno == rustix::io::Errno::NOTCONN)
    });
    assert_eq!(node.run(&image, "b", "cat /top"), "top");
    node.end("a");
}

#[test]
fn committed_snapshots_survive_the_loss_of_the_state() {
    let (mut node, image) = node_with_image();
    node.stop_snapshotter();
    std::fs::remove_dir_all(node.session.directory().join("snapshotter")).unwrap();
    node.start_snapshotter();
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
    node.remove_image(&image);
    node.collect();
    end_to_end::until("all layers to be freed", || node.layers().is_empty());
}

#[test]
fn a_container_reads_on_when_the_state_is_lost_and_is_removed_like_others() {
    let (mut node, image) = node_with_image();
    node.start(&image, "a");
    node.stop_snapshotter();
    std::fs::remove_dir_all(node.path("snapshotter")).unwrap();
    node.start_snapshotter();
    // ctr of 1.6 may end before it has printed what a short command has written.
    end_to_end::until("the container to read", || node.exec("a", "tail -c 4 /large; cat /top") == "end\ntop");
    assert_eq!(node.run(&image, "b", "cat /top"), "top");
    node.end("a");
    node.start(&image, "a");
    end_to_end::until("the container to read", || node.exec("a", "cat /top") == "top");
    node.end("a");
    node.remove_image(&image);
    end_to_end::until("all layers to be freed", || {
        node.collect();
        node.layers().is_empty()
    });
    assert!(node.views().is_empty(), "{:?}", node.views());
}

#[test]
fn an_image_of_which_everything_was_lost_is_pulled_again() {
    let (mut node, image) = node_with_image();
    node.stop_snapshotter();
    std::fs::remove_dir_all(node.path("snapshotter")).unwrap();
    node.session.ok(["gc"]);
    assert!(node.layers().is_empty(), "nothing keeps the layers while the directory is missing");
    node.start_snapshotter();
    let refused = node.ctr(&["run", "--snapshotter", "lamina", "--rm", &image, &node.id("x"), "/bin/sh", "-c", ":"]);
    assert!(!refused.status.success(), "no container starts on layers that are gone: {refused}");
    node.pull(&image);
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
}

#[test]
fn a_registry_that_is_gone_stops_only_pulls() {
    let (mut node, image) = node_with_image();
    let host = node.registry.name("");
    drop(std::mem::replace(&mut node.registry, end_to_end::Registry::plain()));
    let other = image.replace("/one:", "/other:");
    let socket = node.path("c.sock");
    let refused = end_to_end::Finished::of(node.lamina(&["pull", &other, "--address"]).arg(&socket));
    refused.refused(host.trim_end_matches('/'));
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
    node.kill_snapshotter();
    node.start_snapshotter();
    assert_eq!(node.run(&image, "b", "cat /top"), "top");
}

#[test]
fn an_image_that_was_removed_while_the_snapshotter_was_down_is_freed_later() {
    let (mut node, image) = node_with_image();
    node.stop_snapshotter();
    node.ok(&["image", "rm", "--sync", &image]);
    assert_eq!(node.layers().len(), 2);
    node.start_snapshotter();
    // containerd looks again for what it has missed when the next snapshot is removed.
    let other = node.push("other", &[base()]);
    node.pull(&other);
    node.run(&other, "a", ":");
    end_to_end::until("the layer of the image to be freed", || {
        node.collect();
        node.layers() == [base().diff_id()]
    });
}

#[test]
fn a_socket_of_systemd_is_used_and_calls_wait_there_while_the_snapshotter_restarts() {
    let (mut node, image) = node_with_image();
    node.stop_snapshotter();
    std::fs::remove_file(node.path("s.sock")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(node.path("s.sock")).unwrap();
    node.start_snapshotter_with(&socket);
    node.start(&image, "a");
    node.kill_snapshotter();
    let run = ["run", "--snapshotter", "lamina", "--rm", "--runc-root"];
    let (root, id) = (node.path("runc").display().to_string(), node.id("b"));
    let words: Vec<&str> = run.into_iter().chain([root.as_str(), &image, &id, "/bin/cat", "/top"]).collect();
    let mut command = node.ctr_command(&words);
    let waiting = std::thread::spawn(move || end_to_end::Finished::of(&mut command));
    node.start_snapshotter_with(&socket);
    let finished = waiting.join().unwrap().succeeded();
    assert_eq!(finished.stdout, "top");
    assert_eq!(node.exec("a", "cat /top"), "top");
    node.end("a");
}
