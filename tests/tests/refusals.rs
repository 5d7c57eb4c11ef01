//! What commands on images and stores refuse or leave alone, and their messages.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;

use end_to_end::layout::{Layer, noise};
use end_to_end::{Finished, Inventory, Layout, Registry, Session, until_some};
use rustix::process::Signal;
use serde_json::Value;

const REFERENCE: &str = "lamina.test/image:1";
const OTHER: &str = "lamina.test/other:1";

fn session() -> (Session, Layout) {
    let session = Session::user();
    let layout = Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=refusals\n")])]);
    session.import(layout.path(), REFERENCE);
    (session, layout)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn build_image_replaces_regular_files_alone_even_by_force() {
    let (session, _layout) = session();
    let work = session.work("images");
    let (kept, link, fifo) = (work.join("kept"), work.join("link"), work.join("fifo"));
    fs::write(&kept, "kept").unwrap();
    symlink(&kept, &link).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let build = |path: &std::path::Path| {
        session.run([OsStr::new("build-image"), OsStr::new("--force"), OsStr::new(REFERENCE), path.as_os_str()])
    };
    for path in [&link, &fifo] {
        build(path).refused("it is not a regular file");
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    build(&kept).succeeded();
    assert!(fs::metadata(&kept).unwrap().len() > 4);
    session.traces().assert_nothing_left();
}

#[test]
fn interrupted_export_says_so_and_leaves_nothing() {
    let session = Session::user();
    let layers: Vec<Layer> = (0..2).map(|seed| Layer::of_files(&[("noise", &noise(seed, 40 << 20))])).collect();
    session.import(Layout::of(&layers).path(), REFERENCE);
    let work = session.work("exports");
    let to = work.join("layout");
    // On a busy host an export may end before the signal comes; then nothing was interrupted.
    let finished = until_some("an export that is interrupted", || {
        let started = session.start(session.lamina([OsStr::new("export"), OsStr::new(REFERENCE), to.as_os_str()]));
        // From then on there is something that could be left behind.
        while fs::read_dir(&work).unwrap().next().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        started.signal(Signal::INT);
        let finished = started.finish();
        let is_complete = finished.status.success();
        if is_complete {
            fs::remove_dir_all(&to).unwrap();
        }
        (!is_complete).then_some(finished)
    });
    finished.refused("cancelled");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "{finished}");
}

#[test]
fn commands_that_look_into_a_store_make_none() {
    let session = Session::user();
    let mistyped = session.work("parent").join("mistyped");
    for command in [&["images"][..], &["du"], &["verify"], &["rmi", REFERENCE], &["inspect", REFERENCE]] {
        let arguments = ["--store", mistyped.to_str().unwrap()];
        session.run(command.iter().chain(&arguments)).refused("there is no store here");
        assert!(!mistyped.exists(), "{command:?}");
    }
    // Where there is no store, there is nothing to collect.
    let collected = session.run(["gc", "--store", mistyped.to_str().unwrap()]).succeeded();
    assert!(collected.stderr.contains("there is no store here") && !mistyped.exists(), "{collected}");
}

#[test]
fn empty_variable_is_no_store() {
    let session = Session::user();
    let mut images = session.lamina(["images"]);
    images.env("LAMINA_STORE", "").env("XDG_DATA_HOME", session.store());
    Finished::of(&mut images).refused(&format!("{}: there is no store here", session.store().join("lamina").display()));
}

#[test]
fn rmi_takes_the_other_images_where_one_is_not_there() {
    let (session, layout) = session();
    session.import(layout.path(), OTHER);
    let finished = session.run(["rmi", "--json", REFERENCE, "lamina.test/nope:1", OTHER]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("lamina.test/nope:1"), "{finished}");
    let report = json(&finished.stdout);
    assert_eq!(report["removed"], serde_json::json!([REFERENCE, OTHER]));
    assert_eq!(report["failed"], serde_json::json!(["lamina.test/nope:1"]));
    assert_eq!(session.ok(["images", "--quiet"]), "");
}

#[test]
fn digests_are_taken_as_short_as_they_are_shown() {
    let (session, layout) = session();
    let shown = session.ok(["images"]);
    let short = shown.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest");
    let inspected = session.json(["inspect", "--json", short]);
    assert_eq!(inspected["reference"], REFERENCE);
    let layer = inspected["layers"][0]["diff_id"].as_str().unwrap();
    assert!(session.ok(["gc", "--explain", &layer[..19]]).contains(REFERENCE));
    session.run(["gc", "--explain", "sha256:000000000000"]).refused("no layer has a digest that starts with this");
    session.import(layout.path(), OTHER);
    session.run(["rmi", short]).refused_usage(&format!("{REFERENCE}, {OTHER}"));
    session.ok(["rmi", OTHER]);
    session.ok(["rmi", short]);
    assert_eq!(session.ok(["images", "--quiet"]), "");
}

#[test]
fn damaged_store_file_is_written_again_once_it_is_removed() {
    let (session, _layout) = session();
    let file = session.store().join("store.json");
    fs::write(&file, "garbage").unwrap();
    session.run(["images"]).refused("remove it: the next command creates a new one");
    fs::remove_file(&file).unwrap();
    assert_eq!(session.ok(["images", "--quiet"]), format!("{REFERENCE}\n"));
    assert!(file.exists());
}

#[test]
fn commit_takes_no_name_with_a_digest_because_it_cannot_keep_what_that_promises() {
    let (session, _layout) = session();
    let digest = format!("sha256:{}", "0".repeat(64));
    for name in [format!("lamina.test/new@{digest}"), format!("lamina.test/new:1@{digest}")] {
        session.run(["commit", "m", &name]).refused_usage("give a name without a digest");
        session.run(["commit", "--json", "m", &name]).refused_usage("give a name without a digest");
    }
    assert_eq!(session.ok(["images", "--quiet"]), format!("{REFERENCE}\n"));
}

#[test]
fn what_is_not_an_archive_is_refused_by_name() {
    let (session, _layout) = session();
    let work = session.work("input");
    fs::write(work.join("not-an-archive"), noise(5, 10_000)).unwrap();
    fs::write(work.join("empty"), "").unwrap();
    fs::create_dir(work.join("not-a-layout")).unwrap();
    let before = Inventory::of(&session.store());
    for name in ["not-an-archive", "empty", "not-a-layout", "missing"] {
        let path = work.join(name);
        session.run(["import", path.to_str().unwrap(), "--tag", "lamina.test/bad:1"]).refused(name);
    }
    assert_eq!(Inventory::of(&session.store()), before);
    session.traces().assert_nothing_left();
}

#[test]
fn reference_with_a_typing_error_is_refused_before_anything_is_fetched() {
    let (registry, session) = (Registry::plain(), Session::user());
    for reference in ["debian:12:13", "Debian", "debian@sha256:12", "registry.test/", "", "a b"] {
        let finished = session.run(["pull", reference]);
        assert!(matches!(finished.status.code(), Some(1 | 2)), "{finished}");
        assert!(finished.stderr.contains(reference), "{finished}");
    }
    assert_eq!(registry.fetched_blobs(), Vec::<String>::new());
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let (registry, session) = (Registry::plain(), Session::user());
    let missing = format!("{}/test/nothing:1", registry.address());
    session.run(["pull", &missing]).refused("test/nothing");
    // A port on which no process listens: one that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    session.run(["pull", &format!("{closed}/test/nothing:1")]).refused(&closed);
    for command in ["prepare", "inspect", "rmi"] {
        session.run([command, "lamina.test/nothing:1"]).refused("lamina.test/nothing:1");
    }
    session.traces().assert_nothing_left();
}

#[test]
fn store_that_cannot_be_written_is_refused_by_name() {
    let (session, layout) = session();
    // Owned by root and closed: the session's user cannot create anything in it.
    let closed = session.directory().join("closed");
    fs::create_dir(&closed).unwrap();
    let mut import = session.lamina(["import", layout.path().to_str().unwrap(), "--tag", "lamina.test/small:1"]);
    Finished::of(import.env("LAMINA_STORE", closed.join("store"))).refused(closed.to_str().unwrap());
    session.traces().assert_nothing_left();
}

#[test]
fn unknown_command_and_option_are_usage_errors() {
    let session = Session::user();
    session.run(["frobnicate"]).refused_usage("frobnicate");
    session.run(["pull", "--frobnicate", "debian:12"]).refused_usage("--frobnicate");
    session.run(["pull"]).refused_usage("Usage");
}

#[test]
fn images_enter_only_as_the_policy_says() {
    let session = Session::user();
    let layout = Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=policy\n")])]);
    let work = session.work("policy");
    let (policy, archive, saved) = (work.join("policy.json"), work.join("archive.tar"), work.join("saved.tar"));
    let directory = layout.path().display();
    let sources = [
        ("oci", format!("oci:{directory}:latest")),
        ("oci-archive", format!("oci-archive:{}", archive.display())),
        ("docker-archive", format!("docker-archive:{}", saved.display())),
    ];
    let skopeo = |words: &[&str]| {
        std::process::Command::new(end_to_end::programs::installed("skopeo")).args(words).output().unwrap().status
    };
    for (to, name) in [(&sources[1].1, ":latest"), (&sources[2].1, ":lamina.test/saved:1")] {
        assert!(skopeo(&["--insecure-policy", "copy", "--quiet", &sources[0].1, &format!("{to}{name}")]).success());
    }
    let (yes, no) = (r#"[{"type":"insecureAcceptAnything"}]"#, r#"[{"type":"reject"}]"#);
    let scoped = |default: &str, transport: &str, scope: &dyn std::fmt::Display, then: &str| {
        format!(r#"{{"default":{default},"transports":{{"{transport}":{{"{scope}":{then}}}}}}}"#)
    };
    let signed = r#"[{"type":"sigstoreSigned","keyPath":"/dev/null"}]"#;
    // Whether the images of each source are accepted.
    for (text, enters) in [
        (format!(r#"{{"default":{yes}}}"#), [true, true, true]),
        (format!(r#"{{"default":{no}}}"#), [false, false, false]),
        (format!(r#"{{"default":{signed}}}"#), [false, false, false]),
        (scoped(yes, "docker", &"", no), [true, true, true]),
        (scoped(no, "oci", &"", yes), [true, false, false]),
        (scoped(no, "oci-archive", &"", yes), [false, true, false]),
        (scoped(no, "docker-archive", &"", yes), [false, false, true]),
        (scoped(no, "oci", &directory, yes), [true, false, false]),
        (scoped(yes, "oci", &"/tmp", no), [false, true, true]),
        (scoped(yes, "oci", &"/tm", no), [true, true, true]),
        (scoped(no, "oci-archive", &archive.display(), yes), [false, true, false]),
        (scoped(yes, "oci-archive", &work.display(), no), [true, false, true]),
        (scoped(yes, "oci-archive", &"relative", no), [false, false, false]),
        ("{}".to_owned(), [false, false, false]),
    ] {
        fs::write(&policy, &text).unwrap();
        for ((transport, source), enters) in sources.iter().zip(enters) {
            let to = tempfile_beside(&work);
            let theirs = skopeo(&["--policy", policy.to_str().unwrap(), "copy", "--quiet", source, &to]).success();
            assert_eq!(theirs, enters, "skopeo, {transport}: {text}");
            let imported = session.run(["import", source, "--tag", REFERENCE, "--policy", policy.to_str().unwrap()]);
            match enters {
                true => drop(imported.succeeded()),
                false => imported.refused("policy.json"),
            }
        }
    }
    // The user's own policy applies without an option, to every command that brings images in.
    let own = session.directory().join("home/.config/containers/policy.json");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, format!(r#"{{"default":{no}}}"#)).unwrap();
    let refused = session.run(["import", &sources[0].1, "--tag", OTHER]);
    refused.refused(&format!("is refused by the policy {}; change the policy", own.display()));
    session.run(["import", "--rootfs", archive.to_str().unwrap(), OTHER]).refused("is refused by the policy");
    // The registry is not even asked: nothing listens there.
    session.run(["pull", "127.0.0.1:1/x"]).refused("127.0.0.1:1/x:latest is refused by the policy");
    session.run(["run", "127.0.0.1:1/x"]).failed("127.0.0.1:1/x:latest is refused by the policy");
    assert_eq!(session.run(["inspect", OTHER]).status.code(), Some(1));
    session.ok(["inspect", REFERENCE]);
    session.traces().assert_nothing_left();
}

/// A place for skopeo to copy to.
fn tempfile_beside(work: &std::path::Path) -> String {
    let to = tempfile::tempdir_in(work).unwrap();
    format!("dir:{}", to.path().display())
}
