//! `lamina containerd pull` as a command: its options, what it prints, how it ends.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use end_to_end::layout::Layer;
use end_to_end::programs::{built, installed};
use end_to_end::{Finished, Layout, Registry, Started, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use test_support::fake_registry::{FakeRegistry, Reply};
use test_support::image::{self, INDEX, Image, Packing};
use test_support::noise;

use super::fixture::{Node, base};
use super::grpc::Grpc;
use super::proxy::Proxy;

/// Messages of `containerd.services.leases.v1`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Leases {
    #[prost(message, repeated, tag = "1")]
    leases: Vec<Named>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    id: String,
}

/// Answers of the leases service.
fn leases(node: &Node) -> Vec<Named> {
    let answer = Grpc::at(&node.path("c.sock")).call("/containerd.services.leases.v1.Leases/List", &Leases::default());
    let answer: Leases = answer.unwrap_or_else(|error| panic!("{error}"));
    answer.leases
}

fn start(node: &Node, words: &[&str]) -> Started {
    start_at(node, &node.path("c.sock"), words)
}

fn start_at(node: &Node, socket: &Path, words: &[&str]) -> Started {
    let mut command = node.lamina(&["pull"]);
    command.args(words).arg("--address").arg(socket);
    node.session.start(command)
}

fn pull(node: &Node, words: &[&str]) -> Finished {
    Finished::of(node.lamina(&["pull"]).args(words).arg("--address").arg(node.path("c.sock")))
}

/// Checks that containerd has nothing of a pull, and the store no file that is being written.
fn assert_nothing_of_a_pull(node: &Node) {
    until("the lease to be deleted", || leases(node).is_empty());
    assert_eq!(node.ok(&["image", "ls", "--quiet"]), "");
    node.collect();
    until("the snapshots to be removed", || {
        node.ok(&["snapshot", "--snapshotter", "lamina", "ls"]).lines().count() == 1
    });
    assert_eq!(node.ok(&["content", "ls", "--quiet"]), "");
    assert_eq!(node.ok(&["content", "active"]).lines().count(), 1, "writes that were begun");
}

#[test]
fn a_pull_takes_the_logins_certificates_and_policies_that_lamina_pull_takes() {
    let node = Node::new();
    let registry = Registry::secure();
    registry.push_layout(Layout::of(&[base()]).path(), "one", "1");
    let name = registry.name("one:1");
    let certificates = node.session.work("certificates");
    std::fs::copy(registry.ca_file(), certificates.join("ca.crt")).unwrap();
    let trust = ["--cert-dir", certificates.to_str().unwrap()];
    let with = |options: &[&str]| pull(&node, &[&trust[..], options, &[&name]].concat());
    pull(&node, &[&name, "--creds", "alice:s3cret"]).refused("--ca-file");
    with(&[]).refused("lamina login");
    with(&["--creds", "alice:wrong"]).refused(&registry.address().replace("127.0.0.1", "localhost"));
    let odd = with(&["--creds", "s3cret-without-colon"]);
    odd.refused_usage("--creds");
    assert!(!odd.stderr.contains("s3cret"), "{odd}");
    with(&["--authfile", "/nowhere"]).refused_usage("/nowhere");
    let policy = node.session.work("policy").join("policy.json");
    std::fs::write(&policy, r#"{"default": [{"type": "reject"}]}"#).unwrap();
    let login = ["--creds", "alice:s3cret"];
    with(&[&login[..], &["--policy", policy.to_str().unwrap()]].concat()).refused("policy.json");
    with(&[&login[..], &["--max-inodes", "1"]].concat()).refused("--max-inodes");
    assert!(node.layers().is_empty(), "{:?}", node.layers());
    assert_nothing_of_a_pull(&node);

    let pulled = with(&[&login[..], &["--namespace", "other"]].concat()).succeeded();
    assert_eq!((pulled.stdout.lines().count(), pulled.stderr.as_str()), (1, ""), "{pulled}");
    assert!(pulled.stdout.contains(&name) && pulled.stdout.contains("namespace other"), "{pulled}");
    assert_eq!(node.ok(&["--namespace", "other", "image", "ls", "--quiet"]).trim(), name);
    assert_eq!(with(&[&login[..], &["--quiet"]].concat()).succeeded().stdout, format!("{name}\n"));
    let again: Value = serde_json::from_str(&with(&[&login[..], &["--json"]].concat()).succeeded().stdout).unwrap();
    assert_eq!((&again["layers"], &again["fetched"], &again["namespace"]), (&1.into(), &0.into(), &"default".into()));
    assert_eq!(node.run(&name, "a", "cat /etc/layer"), "base\n");
}

#[test]
fn wrong_usage_ends_with_2_and_an_image_that_is_not_there_with_1() {
    let node = Node::new();
    pull(&node, &["A B"]).refused_usage("image name");
    pull(&node, &[&node.registry.name("none:1")]).refused("none:1");
    pull(&node, &["x", "--parallel", "0"]).refused_usage("1 to 64");
    pull(&node, &["x", "--platform", "/"]).refused_usage("--platform");
    pull(&node, &["x", "--no-such-option"]).refused_usage("--no-such-option");
    pull(&node, &[]).refused_usage("REF");
    assert_nothing_of_a_pull(&node);
}

#[test]
fn the_platform_that_is_asked_for_is_pulled() {
    let node = Node::new();
    let layer = |text: &[u8]| image::Layer::new("top", text, Packing::Gzip);
    let images = ["amd64", "arm64"].map(|name| Image::for_platform(vec![layer(name.as_bytes())], name));
    let entries = images.each_ref().map(|image| image::entry(image, None));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let registry = FakeRegistry::with_index(&images.each_ref(), index.as_bytes());
    let name = registry.name("test:index");
    let pulled = pull(&node, &["--json", "--platform", "linux/arm64", &name]).succeeded();
    let row: Value = serde_json::from_str(&pulled.stdout).unwrap();
    assert_eq!((&row["platform"], &row["manifest"]), (&"linux/arm64".into(), &images[1].digest().into()));
    let refused = pull(&node, &["--platform", "linux/s390x", &name]);
    refused.refused("--platform");
}

#[test]
fn a_pull_that_is_interrupted_leaves_nothing_whatever_it_was_doing() {
    let mut node = Node::new();
    // A registry that accepts the request and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fetching = start(&node, &[&format!("{}/test/stalled:1", listener.local_addr().unwrap())]);
    let (mut connection, _) = listener.accept().unwrap();
    assert_ne!(connection.read(&mut [0; 1]).unwrap(), 0);
    fetching.signal(Signal::INT);
    fetching.finish().refused("cancelled");
    assert_nothing_of_a_pull(&node);

    // A snapshotter that does not answer: containerd has a lease by then.
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    node.kill_snapshotter();
    let giving = start(&node, &[&image]);
    until("the lease", || !leases(&node).is_empty());
    giving.signal(Signal::TERM);
    giving.finish().refused("cancelled");
    node.start_snapshotter();
    assert_nothing_of_a_pull(&node);
    let left = node.session.run(["gc"]).succeeded();
    assert!(node.layers().is_empty(), "nothing keeps what was fetched: {left}");
}

/// Starts a pull and ends it by a signal while its call that names the image is on the way to containerd.
fn interrupted_while_naming(node: &Node, proxy: &Proxy, image: &str) -> Started {
    let pulling = start_at(node, proxy.path(), &["--quiet", image]);
    proxy.await_call();
    pulling.signal(Signal::INT);
    let status = format!("/proc/{}/status", pulling.child.id());
    let has_arrived = |status: &str| status.lines().any(|line| line == "ShdPnd:\t0000000000000000");
    until("the signal to arrive", || std::fs::read_to_string(&status).is_ok_and(|status| has_arrived(&status)));
    pulling
}

#[test]
fn a_signal_while_containerd_names_the_image_leaves_it_whole_or_nothing_of_it() {
    let node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    let proxy = |name: &str| Proxy::new(node.path(name), &node.path("c.sock"), &image);

    let passing = proxy("passing.sock");
    let pulling = interrupted_while_naming(&node, &passing, &image);
    passing.pass_on();
    assert_eq!(pulling.finish().succeeded().stdout, format!("{image}\n"));
    until("the lease to be deleted", || leases(&node).is_empty());
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
    node.remove_image(&image);
    assert_nothing_of_a_pull(&node);

    let cutting = proxy("cutting.sock");
    let pulling = interrupted_while_naming(&node, &cutting, &image);
    cutting.cut();
    pulling.finish().refused(&image);
    assert_nothing_of_a_pull(&node);

    // containerd does not answer, and so does not delete the lease either.
    let silent = proxy("silent.sock");
    let pulling = interrupted_while_naming(&node, &silent, &image);
    pulling.finish().refused("has not answered");
    silent.cut();
    let [lease] = leases(&node).try_into().expect("one lease, which expires");
    assert_eq!(node.ok(&["image", "ls", "--quiet"]), "");
    node.ok(&["leases", "delete", "--sync", &lease.id]);
    assert_nothing_of_a_pull(&node);
}

#[test]
fn a_pull_waits_for_a_snapshotter_that_is_started_again() {
    let mut node = Node::new();
    let image = node.push("one", &[base(), Layer::of_files(&[("top", b"top")])]);
    node.kill_snapshotter();
    let pulling = start(&node, &["--quiet", &image]);
    until("the lease", || !leases(&node).is_empty());
    node.start_snapshotter();
    assert_eq!(pulling.finish().succeeded().stdout, format!("{image}\n"));
    until("the lease to be deleted", || leases(&node).is_empty());
    assert_eq!(node.run(&image, "a", "cat /top"), "top");
}

#[test]
fn a_pull_keeps_what_it_finds_when_the_image_that_had_it_is_removed() {
    let node = Node::new();
    let layers = [base(), Layer::of_files(&[("top", b"top")])];
    let [one, two] = ["one", "two"].map(|name| node.push(name, &layers));
    node.pull(&one);
    let snapshots = node.ok(&["snapshot", "--snapshotter", "lamina", "ls"]);
    let chains: Vec<&str> = snapshots.lines().filter_map(|line| line.split(' ').next()).skip(1).collect();
    assert_eq!(chains.len(), 2, "{snapshots}");
    let created = || -> Vec<Value> {
        let info = |chain: &str| node.ok(&["snapshot", "--snapshotter", "lamina", "info", chain]);
        chains.iter().map(|chain| serde_json::from_str::<Value>(&info(chain)).unwrap()["Created"].clone()).collect()
    };
    let (snapshots, content) = (created(), node.ok(&["content", "ls", "--quiet"]));
    assert!(snapshots.iter().all(Value::is_string), "{snapshots:?}");
    let proxy = Proxy::new(node.path("p.sock"), &node.path("c.sock"), &two);
    let pulling = start_at(&node, proxy.path(), &["--quiet", &two]);
    proxy.await_call();
    // A collection while nothing but the lease of the pull keeps them.
    node.remove_image(&one);
    assert_eq!(node.ok(&["image", "ls", "--quiet"]), "");
    proxy.pass_on();
    assert_eq!(pulling.finish().succeeded().stdout, format!("{two}\n"));
    until("the lease to be deleted", || leases(&node).is_empty());
    node.collect();
    assert_eq!(created(), snapshots, "snapshots that were made again");
    assert_eq!(node.ok(&["content", "ls", "--quiet"]), content);
    assert_eq!(node.run(&two, "a", "cat /top"), "top");
}

#[test]
fn a_terminal_shows_the_progress_of_each_layer_until_ctrl_c() {
    let node = Node::new();
    let stalled = Image::new(vec![image::Layer::new("noise", &noise(5, 300_000), Packing::Plain)]);
    let digest = stalled.layers[0].digest();
    let blob = format!("/blobs/{digest}");
    let registry = FakeRegistry::start(&[&stalled], move |request| {
        if request.path.ends_with(&blob) { Reply::StallAfter(100_000) } else { Reply::Serve }
    });
    let line = format!(
        "stty cols 100 rows 40; exec {} containerd pull --address {} {}",
        built("lamina").display(),
        node.path("c.sock").display(),
        registry.name("test:0")
    );
    let log = node.session.work("terminal").join("log");
    let mut command = node.session.command(&installed("script"));
    command.args(["-q", "-f", "-e", "-c", &line]).arg(&log).env("TERM", "xterm");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let shown = || String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    let name = &digest["sha256:".len()..][..12];
    until("progress of the layer", || shown().lines().any(|line| line.contains(name) && line.contains(" of ")));
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{}", shown());
    assert!(shown().contains("lamina containerd: pull: ") && shown().contains("cancelled"), "{}", shown());
    assert_nothing_of_a_pull(&node);
}
