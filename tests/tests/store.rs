//! Images into the store and out of it: pull, import, prepare, images, inspect, rmi, as an ordinary user.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use end_to_end::layout::{Layer, noise};
use end_to_end::programs::installed;
use end_to_end::{Finished, Image, Inventory, Layout, Registry, Session};

fn small_image() -> Layout {
    Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=small\n"), ("noise", &noise(1, 300_000))])])
}

/// Makes the session's store, with nothing in it.
fn make_store(session: &Session) {
    session.run(["prepare", "lamina.test/none:1"]).refused("lamina.test/none:1");
}

fn references(session: &Session) -> Vec<String> {
    let list: serde_json::Value =
        serde_json::from_str(&session.ok(["images", "--json"])).expect("images --json prints JSON");
    let images = list.as_array().expect("images --json prints a list");
    images.iter().map(|image| image["reference"].as_str().expect("every image has a reference").to_owned()).collect()
}

fn skopeo_copy(arguments: &[&str]) {
    let finished = Finished::of(Command::new(installed("skopeo")).arg("copy").arg("--quiet").args(arguments));
    assert!(finished.status.success(), "{finished}");
}

#[test]
fn pulled_image_is_listed_and_pulling_it_again_fetches_no_layer() {
    let (registry, session) = (Registry::plain(), Session::user());
    let reference = registry.push_layout(&Image::Debian.layout(), "test/debian", "12");
    session.ok(["pull", &reference]);
    assert_eq!(references(&session), [reference.as_str()]);
    let (fetched, stored) = (registry.fetched_blobs(), Inventory::of(&session.store()));
    assert_eq!(stored.layers().len(), 3);
    // Three layers and the config, each once.
    assert_eq!(fetched.len(), 4, "{fetched:?}");

    session.ok(["pull", &reference]);
    // A config is small, so it is fetched and read again.
    let again = registry.fetched_blobs().split_off(fetched.len());
    assert!(again.iter().all(|digest| *digest == fetched[0]), "{again:?}");
    assert_eq!(Inventory::of(&session.store()).added_since(&stored), Vec::<&Path>::new());
    session.traces().assert_nothing_left();
}

#[test]
fn layers_that_two_images_share_are_fetched_and_kept_once() {
    let (registry, session) = (Registry::plain(), Session::user());
    let debian = registry.push_layout(&Image::Debian.layout(), "test/debian", "12");
    let trees = registry.push_layout(&Image::Trees.layout(), "test/trees", "1");
    session.ok(["pull", &debian]);
    let before = registry.fetched_blobs();
    session.ok(["pull", &trees]);
    let fetched = registry.fetched_blobs().split_off(before.len());
    // Two of its four layers are Debian's and already there, so two layers and the config are fetched.
    assert_eq!(fetched.len(), 3, "{fetched:?}");
    assert!(fetched.iter().all(|digest| !before.contains(digest)));
    assert_eq!(Inventory::of(&session.store()).layers().len(), 5);
}

#[test]
fn image_is_pulled_by_digest() {
    let (registry, session) = (Registry::plain(), Session::user());
    let layout = small_image();
    let tagged = registry.push_layout(layout.path(), "test/small", "1");
    let finished = Finished::of(Command::new(installed("skopeo")).args([
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &format!("docker://{tagged}"),
    ]));
    let reference = format!("{}/test/small@{}", registry.address(), finished.succeeded().stdout.trim());
    session.ok(["pull", &reference]);
    assert_eq!(references(&session), [reference.as_str()]);
    let wrong = format!("{}/test/small@sha256:{}", registry.address(), "0".repeat(64));
    session.run(["pull", &wrong]).refused(&"0".repeat(64));
}

#[test]
fn every_way_in_gives_the_same_base() {
    let session = Session::user();
    let layout = format!("oci:{}:latest", Image::Corners.layout().display());
    let work = session.work("archives");
    let archive = |name: &str| work.join(name).display().to_string();
    skopeo_copy(&[&layout, &format!("oci-archive:{}:latest", archive("oci.tar"))]);
    skopeo_copy(&[&layout, &format!("docker-archive:{}:lamina.test/corners:1", archive("docker.tar"))]);
    skopeo_copy(&[
        "--dest-compress",
        "--dest-compress-format",
        "zstd",
        &layout,
        &format!("oci:{}:latest", archive("zstd")),
    ]);
    open_to_all(&work);

    session.import(&Image::Corners.layout(), "lamina.test/layout:1");
    let stored = Inventory::of(&session.store());
    session.import(&work.join("oci.tar"), "lamina.test/oci-archive:1");
    session.import(&work.join("docker.tar"), "lamina.test/docker-archive:1");
    session.import(&work.join("zstd"), "lamina.test/zstd:1");
    let mut standard_input = session.lamina(["import", "-", "--tag", "lamina.test/standard-input:1"]);
    standard_input.stdin(std::fs::File::open(work.join("oci.tar")).expect("the archive"));
    assert_eq!(Finished::of(&mut standard_input).succeeded().stderr, "");

    let layers = |inventory: &Inventory| inventory.layers().iter().map(|path| path.to_path_buf()).collect::<Vec<_>>();
    assert_eq!(layers(&Inventory::of(&session.store())), layers(&stored), "a layer is stored once, however it comes");
    let base = |name: &str| session.ok(["prepare", &format!("lamina.test/{name}:1")]);
    for name in ["oci-archive", "docker-archive", "zstd", "standard-input"] {
        assert_eq!(base(name), base("layout"), "{name}");
    }
}

fn open_to_all(path: &Path) {
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(path).status().expect("chmod").success());
}

#[test]
fn preparing_twice_prints_the_same_base_and_writes_nothing() {
    let session = Session::user();
    session.import(&Image::Debian.layout(), "lamina.test/debian:12");
    let base = session.ok(["prepare", "lamina.test/debian:12"]);
    assert_eq!(base.lines().count(), 1, "{base:?}");
    let stored = Inventory::of(&session.store());
    assert_eq!(session.ok(["prepare", "lamina.test/debian:12"]), base);
    assert_eq!(Inventory::of(&session.store()), stored);
    session.traces().assert_nothing_left();
}

#[test]
fn added_layer_directory_makes_another_base_of_one_layer_more() {
    let session = Session::user();
    session.import(&Image::Debian.layout(), "lamina.test/debian:12");
    let plain = session.ok(["prepare", "lamina.test/debian:12"]);
    let before = Inventory::of(&session.store());
    let agent = session.work("agent");
    std::fs::create_dir_all(agent.join("usr/local/bin")).unwrap();
    std::fs::write(agent.join("usr/local/bin/agent"), "#!/bin/sh\n").unwrap();
    open_to_all(&agent);
    let prepare = || session.ok(["prepare", "lamina.test/debian:12", "--layer", agent.to_str().unwrap()]);
    let varied = prepare();
    assert_ne!(varied, plain);
    assert_eq!(prepare(), varied, "the same content is the same variant");
    assert_eq!(Inventory::of(&session.store()).layers().len(), before.layers().len() + 1);
    session.run(["prepare", "lamina.test/debian:12", "--layer", "/nowhere/at-all"]).refused("/nowhere/at-all");
}

#[test]
fn rebuild_of_top_layer_adds_only_that_layer() {
    let session = Session::user();
    let lower = Layer::of_files(&[("noise", &noise(1, 8 << 20)), ("etc/os-release", b"ID=rebuilt\n")]);
    let top = |seed| Layer::of_files(&[("srv/app", &noise(seed, 2 << 20))]);
    let (first, second) = (Layout::of(&[lower.clone(), top(2)]), Layout::of(&[lower, top(3)]));
    session.import(first.path(), "lamina.test/app:1");
    session.ok(["prepare", "lamina.test/app:1"]);
    let before = Inventory::of(&session.store());
    // Nothing of the unchanged layer is read again: its file now has content that would be refused.
    let unchanged = second.blob(&second.layer_digests()[0]);
    let length = unchanged.metadata().unwrap().len();
    std::fs::write(&unchanged, vec![0; usize::try_from(length).unwrap()]).unwrap();

    session.import(second.path(), "lamina.test/app:2");
    session.ok(["prepare", "lamina.test/app:2"]);
    let after = Inventory::of(&session.store());
    assert_eq!(after.layers().len(), before.layers().len() + 1);
    let growth = after.bytes() - before.bytes();
    assert!(
        growth * 100 <= top(3).tar_bytes() * 105,
        "the store grew by {growth} for a layer of {}",
        top(3).tar_bytes()
    );
}

#[test]
fn removed_image_is_gone_and_leaves_the_others_whole() {
    let session = Session::user();
    let shared = Layer::of_files(&[("shared", b"by both")]);
    let first = Layout::of(&[shared.clone(), Layer::of_files(&[("one", b"1")])]);
    let second = Layout::of(&[shared, Layer::of_files(&[("two", b"2")])]);
    session.import(first.path(), "lamina.test/one:1");
    session.import(second.path(), "lamina.test/two:1");
    session.ok(["rmi", "lamina.test/one:1"]);
    assert_eq!(references(&session), ["lamina.test/two:1"]);
    session.run(["prepare", "lamina.test/one:1"]).refused("lamina.test/one:1");
    session.run(["rmi", "lamina.test/one:1"]).refused("lamina.test/one:1");
    session.ok(["gc"]);
    assert_eq!(Inventory::of(&session.store()).layers().len(), 2, "the layer of the other image, and the shared one");
    let point = session.mount("lamina.test/two:1", "mounted");
    let tree = session.tree(&point);
    assert!(tree.get("shared").is_some() && tree.get("two").is_some());
    session.umount(&point);
}

#[test]
fn inspect_tells_the_config_and_the_layers() {
    let session = Session::user();
    session.import(&Image::Trees.layout(), "lamina.test/trees:1");
    let text = session.ok(["inspect", "lamina.test/trees:1", "--json"]);
    let image: serde_json::Value = serde_json::from_str(&text).expect("inspect --json prints JSON");
    assert_eq!(image["reference"], "lamina.test/trees:1");
    assert_eq!(image["layers"].as_array().map(Vec::len), Some(4), "{text}");
    for word in ["/srv/web", "1000:1000", "NODE_PATH=/srv/web/node_modules", "python3"] {
        assert!(text.contains(word), "{word} is in the image's config\n{text}");
        assert!(
            session.ok(["inspect", "--text", "lamina.test/trees:1"]).contains(word),
            "{word} in the form for people"
        );
    }
}

#[test]
fn image_for_another_platform_is_chosen_on_request() {
    let (registry, session) = (Registry::plain(), Session::user());
    let [amd64, riscv64] = ["amd64", "riscv64"].map(|name| (name, Layer::of_files(&[("platform", name.as_bytes())])));
    let layout = Layout::of_platforms(&[amd64, riscv64]);
    let reference = format!("{}/test/platforms:1", registry.address());
    skopeo_copy(&[
        "--all",
        "--dest-tls-verify=false",
        &format!("oci:{}:latest", layout.path().display()),
        &format!("docker://{reference}"),
    ]);
    let platform = |session: &Session| {
        let point = session.mount(&reference, "mounted");
        let content = session.tree(&point).get("platform").map(|fields| fields["size"].clone());
        session.umount(&point);
        content
    };
    session.ok(["pull", "--platform", "linux/riscv64", &reference]);
    assert_eq!(platform(&session).as_deref(), Some("7"));
    session.run(["pull", "--platform", "linux/s390x", &reference]).refused("s390x");

    // What is kept for another platform is run without the registry.
    session.ok(["pull", "--all-platforms", "--platform", "linux/riscv64", &reference]);
    let manifest = |name: &str| session.json(["inspect", "--json", name])["manifest"].clone();
    let riscv64 = manifest(&reference);
    drop(registry);
    for (name, pull) in [("missing", "missing"), ("never", "never")] {
        let options = ["--accel", "tcg", "--network", "none", "--pull", pull, "--platform", "linux/amd64"];
        session.ok(["create", "--name", name].iter().chain(&options).chain(&[reference.as_str(), "true"]));
        let root = session.json(["inspect", "--json", name])["spec"]["root"].clone();
        assert!(root.to_string().contains("sha256:") && root["image"]["manifest"] != riscv64, "{root}");
        session.ok(["rm", name]);
    }
    assert_eq!(manifest(&reference), riscv64, "the name stays as it is");
    session.run(["run", "--pull=never", "--platform", "linux/s390x", &reference, "true"]).failed("linux/s390x");
}

/// What a registry or a layout may serve instead of a blob.
#[derive(Clone, Copy)]
enum Damage {
    OneByte,
    Truncated,
    Missing,
}

impl Damage {
    const ALL: [Self; 3] = [Self::OneByte, Self::Truncated, Self::Missing];

    fn inflict(self, blob: &Path) {
        let mut bytes = std::fs::read(blob).unwrap();
        match self {
            Self::OneByte => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x20;
                std::fs::write(blob, bytes).unwrap();
            }
            Self::Truncated => std::fs::write(blob, &bytes[..bytes.len() / 2]).unwrap(),
            Self::Missing => std::fs::remove_file(blob).unwrap(),
        }
    }
}

#[test]
fn damaged_layer_of_a_registry_leaves_the_store_as_it_was() {
    for damage in Damage::ALL {
        let (registry, session) = (Registry::plain(), Session::user());
        session.import(Layout::of(&[Layer::of_files(&[("kept", b"before")])]).path(), "lamina.test/kept:1");
        let layout = small_image();
        let reference = registry.push_layout(layout.path(), "test/damaged", "1");
        let digest = &layout.layer_digests()[0];
        damage.inflict(&registry.blob_path(digest));
        let before = Inventory::of(&session.store());
        session.run(["pull", &reference]).refused(&digest["sha256:".len()..][..12]);
        assert_eq!(Inventory::of(&session.store()), before);
        assert_eq!(references(&session), ["lamina.test/kept:1"]);
        session.traces().assert_nothing_left();
    }
}

#[test]
fn damaged_layer_of_a_layout_leaves_the_store_as_it_was() {
    for damage in Damage::ALL {
        let session = Session::user();
        session.import(Layout::of(&[Layer::of_files(&[("kept", b"before")])]).path(), "lamina.test/kept:1");
        let layout = small_image();
        let digest = &layout.layer_digests()[0];
        damage.inflict(&layout.blob(digest));
        let before = Inventory::of(&session.store());
        let path = layout.path().to_str().unwrap();
        session.run(["import", path, "--tag", "lamina.test/damaged:1"]).refused(&digest["sha256:".len()..][..12]);
        assert_eq!(Inventory::of(&session.store()), before);
        session.traces().assert_nothing_left();
    }
}

#[test]
fn interrupted_pull_leaves_the_store_as_it_was() {
    let session = Session::user();
    make_store(&session);
    let before = Inventory::of(&session.store());
    // A registry that accepts the request and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/test/stalled:1", listener.local_addr().unwrap());
    let pull = session.start(session.lamina(["pull", &reference]));
    let (mut connection, _) = listener.accept().unwrap();
    assert_ne!(connection.read(&mut [0; 1]).unwrap(), 0);
    pull.signal(rustix::process::Signal::INT);
    let finished = pull.finish();
    assert!(!finished.status.success(), "{finished}");
    assert_eq!(Inventory::of(&session.store()), before);
    session.traces().assert_nothing_left();
}

#[test]
fn interrupted_repair_ends_at_once_and_leaves_the_store_as_it_was() {
    let (registry, session) = (Registry::plain(), Session::user());
    let layout = small_image();
    let reference = registry.push_layout(layout.path(), "test/stalled", "1");
    session.ok(["pull", "--quiet", &reference]);
    let layer = Inventory::of(&session.store()).layers()[0].join("blob");
    std::fs::write(session.store().join(layer), vec![0; 1024]).unwrap();
    let before = Inventory::of(&session.store());
    // A server that accepts the request and never answers takes its place.
    let address = registry.address().to_owned();
    drop(registry);
    let listener = std::net::TcpListener::bind(address).unwrap();
    let repair = session.start(session.lamina(["verify", "--repair", &reference]));
    let (mut connection, _) = listener.accept().unwrap();
    assert_ne!(connection.read(&mut [0; 1]).unwrap(), 0);
    repair.signal(rustix::process::Signal::INT);
    let finished = repair.finish();
    assert!(finished.stderr.contains("cancelled"), "{finished}");
    assert_eq!(Inventory::of(&session.store()), before);
    session.traces().assert_nothing_left();
}

#[test]
fn image_that_repeats_a_layer_goes_through_every_command() {
    let (registry, session) = (Registry::plain(), Session::user());
    let first = Layer::of_files(&[("etc/name", b"first\n"), ("noise", &noise(3, 200_000))]);
    let second = Layer::of_files(&[("etc/name", b"second\n"), ("etc/.wh.gone", b""), ("only", b"here\n")]);
    let layout = Layout::of(&[first.clone(), second.clone(), first.clone(), first.clone()]);
    let pulled = registry.push_layout(layout.path(), "test/repeats", "1");
    session.ok(["pull", &pulled]);
    session.import(layout.path(), "lamina.test/repeats:1");
    assert_eq!(Inventory::of(&session.store()).layers().len(), 2, "each is kept once");
    let layers = session.json(["inspect", "--json", &pulled])["layers"].as_array().map(Vec::len);
    assert_eq!(layers, Some(4), "and named as often as the image names it");

    session.ok(["prepare", &pulled]);
    session.ok(["verify", &pulled]);
    session.ok(["gc"]);
    let exported = session.work("exports").join("layout");
    session.ok(["export", &pulled, exported.to_str().unwrap()]);
    session.ok(["import", exported.to_str().unwrap(), "--tag", "lamina.test/exported:1"]);
    assert_eq!(Inventory::of(&session.store()).layers().len(), 2, "the export has the same layers");
    for reference in [&pulled, "lamina.test/repeats:1", "lamina.test/exported:1"] {
        let point = session.mount(reference, "mounted");
        assert_eq!(session.read(&point.join("etc/name")), b"first\n", "{reference}: the topmost one counts");
        assert_eq!(session.read(&point.join("only")), b"here\n", "{reference}");
        assert_eq!(session.read(&point.join("noise")), noise(3, 200_000), "{reference}");
        session.umount(&point);
    }
    session.await_no_process();
    session.ok(["rmi", &pulled, "lamina.test/repeats:1", "lamina.test/exported:1"]);
    session.ok(["gc"]);
    assert_eq!(Inventory::of(&session.store()).layers(), Vec::<&Path>::new());
    session.traces().assert_nothing_left();
}

#[test]
fn store_is_usable_after_an_import_was_killed() {
    let session = Session::user();
    let layout = Image::Trees.layout();
    let stored_bytes = || Inventory::of(&session.store()).bytes();
    make_store(&session);
    let begin = stored_bytes();
    let mut import =
        session.start(session.lamina(["import", layout.to_str().unwrap(), "--tag", "lamina.test/trees:1"]));
    while stored_bytes() < begin + (1 << 20) {
        assert!(import.child.try_wait().unwrap().is_none(), "{}", import.finish());
    }
    import.signal(rustix::process::Signal::KILL);
    assert!(!import.finish().status.success());
    assert_eq!(references(&session), Vec::<String>::new());

    session.import(&layout, "lamina.test/trees:1");
    assert_eq!(Inventory::of(&session.store()).layers().len(), 4);
    session.ok(["prepare", "lamina.test/trees:1"]);
    // What the killed one was writing is garbage like any other.
    session.ok(["gc"]);
    assert_eq!(Inventory::of(&session.store()).layers().len(), 4);
    session.traces().assert_nothing_left();
}
